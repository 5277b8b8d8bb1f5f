import json
from pathlib import Path

import pytest

import tune.formats  # noqa: F401
from tune.data_tools.targets import TARGETS
from tune.formats.base import FORMATS

PAGE = (Path(__file__).parents[2] / "docs" / "data-formats.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_every_format_stands_in_the_table_with_an_example(name: str) -> None:
    format_ = FORMATS[name]
    assert f"| `{name}` | {format_.title} | `{json.dumps(format_.example, ensure_ascii=False)}` |" in PAGE


def test_every_target_is_told() -> None:
    assert [name for name in TARGETS if f"`{name}`" not in PAGE] == []
