"""A running count while a source is read, on the error stream."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.text import Text

from tune.data_tools.reader import Source


@contextmanager
def counted(source: Source, label: str) -> Iterator[None]:
    """Show how many examples have been read so far; rich asks for the count ten times a second."""
    columns = SpinnerColumn(), TextColumn(label), _Count(source), TimeElapsedColumn()
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(label, total=None)
        yield


class _Count(TextColumn):
    def __init__(self, source: Source) -> None:
        super().__init__("")
        self._source = source

    def render(self, task: Task) -> Text:
        return Text(f"{sum(self._source.formats.values()):,}")
