"""From any format to any other, a record at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from personas.lang import say
from tune.data_tools.reader import Fault, Faults, Source
from tune.data_tools.targets import Target
from tune.data_tools.writer import refuse_existing, writing
from tune.formats.base import DataError, Example, FieldError


@dataclass
class Converted:
    """What became of the records."""

    read: int = 0
    written: int = 0
    without_system: int = 0


def convert(
    source: Source, target: Target, out: Path, faults: Faults, skip_bad: bool = False, overwrite: bool = False
) -> Converted:
    """Write every example of the source to `out` in another form.

    Args:
        source: what to read.
        target: the form to write.
        out: the file; its ending says JSON Lines, JSON, CSV, TSV or Parquet.
        faults: gets the bad records.
        skip_bad: write the good records all the same.
        overwrite: replace what is at `out`.

    Raises:
        DataError: a bad record without `skip_bad`, nothing to write, or a full disk; `out` is then as it was.
    """
    refuse_existing(out, overwrite)
    done = Converted()
    with writing(out, target) as put:
        for made in source.read():
            if isinstance(made, Fault):
                faults.add(made)
                continue
            done.read += 1
            done.without_system += bool(made.system) and not target.system
            try:
                for row in target.rows(made):
                    put(row)
                    done.written += 1
            except FieldError as error:
                faults.add(Fault(*source.place, str(error)))
        if not skip_bad:
            faults.raise_any(say("`tune data check`로 보거나 --skip-bad", "see `tune data check`, or --skip-bad"))
        if not done.written:
            faults.raise_any("")
            raise DataError(say("쓸 기록이 없습니다", "no record to write"))
    return done


def write_all(examples: Iterator[Example], target: Target, out: Path, faults: Faults, overwrite: bool) -> Converted:
    """Write examples as they come; `faults` is what reading them finds, and does not hold the others back.

    Raises:
        DataError: nothing to write, an example that the form cannot hold, or a full disk; `out` is then as it was.
    """
    refuse_existing(out, overwrite)
    done = Converted()
    with writing(out, target) as put:
        for example in examples:
            done.read += 1
            for row in target.rows(example):
                put(row)
                done.written += 1
        if not done.written:
            faults.raise_any("tune data check")
            raise DataError(say("쓸 기록이 없습니다", "no record to write"))
    return done
