"""`tune`: from a persona's data to a live adapter."""

from personas.console import make_app, run
from personas.lang import say
from tune import after_cli, loop_cli, runs_cli, train_cli
from tune.data_cli import app as data_app

app = make_app(
    say("페르소나를 튜닝합니다: 데이터 → LoRA 어댑터 → 바로 서비스", "Tune personas: data → LoRA adapter → live")
)
app.add_typer(data_app, name="data")
train_cli.register(app)
loop_cli.register(app)
after_cli.register(app)
runs_cli.register(app)


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
