"""Tables of `tune data`, for people."""

from rich.console import Console
from rich.table import Table

from personas.lang import say
from tune.data_tools.stats import PERCENTILES, Stats


def stats_table(stats: Stats, formats: dict[str, int], bad: int, base: str, limit: int) -> None:
    """Print what is in the data."""
    table = Table(show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")

    def percent(part: int) -> str:
        return f"{part:,} ({part / stats.examples:.1%})"

    table.add_row(say("기록", "records"), f"{stats.examples:,}")
    table.add_row(say("틀린 기록", "bad records"), f"{bad:,}")
    table.add_row(say("형식", "format"), ", ".join(f"{name} {count:,}" for name, count in formats.items()))
    table.add_row(say("주고받은 말", "exchanges"), f"{stats.turns:,}")
    table.add_row(say("문맥 있음", "with a context"), percent(stats.with_context))
    table.add_row(say("시스템 메시지", "with a system message"), percent(stats.with_system))
    table.add_row(say("거절된 답", "with a rejected answer"), percent(stats.with_rejected))
    table.add_row(say("한국어 답", "Korean answers"), percent(stats.korean_answers))
    table.add_row(say("답의 한글 비율", "Hangul among letters"), f"{stats.korean_letters:.1%}")
    table.add_row(say("중복", "duplicates"), percent(stats.duplicates))
    table.add_section()
    for share in PERCENTILES:
        table.add_row(say(f"길이 {share}%", f"length {share}%"), f"{stats.percentile(share):,}")
    table.add_row(say(f"{limit:,} 토큰 초과", f"over {limit:,} tokens"), percent(stats.longer_than(limit)))
    table.add_section()
    for category, count in stats.categories.most_common(10):
        table.add_row(category, percent(count))
    table.title = say(f"토큰: {base}", f"tokens of {base}")
    Console().print(table)
