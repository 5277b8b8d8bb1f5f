"""The child process that reads one file: `python -m rag.child JOB`, limits set on itself, a JSON line a page on stdout.

The file is not trusted: what it does to this process ends with this process.
"""

import json
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from rag.pages import Outline, RawPage
from rag.readers import Refused, read_docx, read_hwpx, read_markdown, read_pdf, read_text

Reader = Callable[[Path], Iterator[RawPage | Outline]]
_READERS: dict[str, Reader] = {"docx": read_docx, "hwpx": read_hwpx, "md": read_markdown, "txt": read_text}


def _limit(memory_mib: int, seconds: int) -> None:
    size = memory_mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _read(job: dict[str, object], text_limit: int) -> None:
    path, kind = Path(str(job["path"])), str(job["kind"])
    items = read_pdf(path, int(str(job["max_pages"])), bool(job["ocr"])) if kind == "pdf" else _READERS[kind](path)
    size = 0
    for item in items:
        line = json.dumps([type(item).__name__, asdict(item)], ensure_ascii=False)
        size += len(line)
        if size > text_limit:
            raise Refused("bomb", f"more than {text_limit} characters")
        sys.stdout.write(line + "\n")


def main() -> None:
    job = json.loads(sys.argv[1])
    _limit(int(job["memory_mib"]), int(job["seconds"]))
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]
    try:
        _read(job, int(job["text_limit"]))
        end = ["end", {}]
    except Refused as error:
        end = ["refused", {"code": error.code, "detail": str(error)[:300]}]
    except MemoryError:
        end = ["refused", {"code": "memory", "detail": ""}]
    except PermissionError as error:
        end = ["refused", {"code": "permission", "detail": str(error.strerror)}]
    except Exception as error:  # whatever a broken file does to a parser is the file's fault
        end = ["refused", {"code": "damaged", "detail": f"{type(error).__name__}: {error}"[:300]}]
    sys.stdout.write(json.dumps(end) + "\n")


if __name__ == "__main__":
    main()
