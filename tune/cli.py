"""`tune`: from a persona's data to a live adapter."""

from personas.console import make_app, run
from personas.lang import say
from tune import runs_cli, train_cli

app = make_app(
    say("페르소나를 튜닝합니다: 데이터 → LoRA 어댑터 → 바로 서비스", "Tune personas: data → LoRA adapter → live")
)
app.command(
    help=say(
        "학습하고 평가해서 다음 버전으로 발행합니다. 곧바로 서비스됩니다",
        "Train, evaluate, publish as the next version; live at once",
    )
)(train_cli.persona)
app.command(help=say("페르소나 없이 데이터로 어댑터나 모델을 학습합니다", "Train an adapter or a model on data files"))(
    train_cli.sft
)
runs_cli.register(app)


def main() -> None:
    run(app)


if __name__ == "__main__":
    main()
