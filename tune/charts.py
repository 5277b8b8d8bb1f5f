"""Pictures of a run: curves and memory, drawn with matplotlib without a display.

Labels are Korean where a Korean font is installed and the reader's language is Korean, English elsewhere: a picture
with boxes for letters helps nobody.
"""

import io
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from personas.lang import say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FONTS = (
    "Pretendard",
    "Noto Sans CJK KR",
    "Noto Sans KR",
    "NanumGothic",
    "NanumBarunGothic",
    "Apple SD Gothic Neo",
    "AppleGothic",
    "Malgun Gothic",
)
TRAIN, HELD, OTHER, FREE, INK = "#2b5f8a", "#b3261e", "#8a6d1f", "#dfe4ea", "#1c2430"
GIB = 1 << 30


@dataclass(frozen=True)
class Memory:
    """Bytes on the device: in use before the run, at its peak, and in all."""

    before: int
    peak: int
    device: int

    @property
    def training(self) -> int:
        """What training added at its peak."""
        return max(0, self.peak - self.before)


def korean_font() -> str | None:
    """An installed font that has Hangul, or None."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return next((name for name in FONTS if name in installed), None)


def label(ko: str, en: str) -> str:
    """A label in the reader's language if the picture can show it."""
    return say(ko, en) if korean_font() else en


@contextmanager
def _style() -> Iterator[None]:
    import matplotlib as mpl

    font = korean_font()
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # it tells of every weight it has to round
    look: dict[Any, Any] = {
        "font.family": [*([font] if font else []), "DejaVu Sans"],
        "axes.unicode_minus": False,
        "svg.fonttype": "path",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#9aa6b4",
        "axes.labelcolor": INK,
        "text.color": INK,
        "axes.grid": True,
        "grid.color": "#eceff3",
        "axes.titlesize": 12,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "legend.frameon": False,
    }
    with mpl.rc_context(look):
        yield


def series(history: list[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    """(steps, values) of one name in a trainer's log."""
    found = [(int(entry["step"]), float(entry[key])) for entry in history if key in entry]
    return [step for step, _ in found], [value for _, value in found]


def accuracy_key(history: list[dict[str, Any]]) -> str | None:
    """The name under which the log has next-token accuracy on held-out records, if it has."""
    names = {key for entry in history for key in entry}
    return next((key for key in sorted(names) if key.startswith("eval_") and "accuracy" in key), None)


def _draw_loss(axes: "Axes", history: list[dict[str, Any]]) -> None:
    for key, name, colour, mark in (
        ("loss", label("학습", "training"), TRAIN, ""),
        ("eval_loss", label("검증", "validation"), HELD, "o"),
    ):
        steps, values = series(history, key)
        if steps:
            mark = mark or ("" if len(steps) > 1 else "o")
            axes.plot(steps, values, color=colour, marker=mark, markersize=4, linewidth=1.8, label=name)
    steps, values = series(history, "eval_loss")
    if steps:
        best = min(range(len(values)), key=values.__getitem__)
        axes.annotate(
            f"{values[best]:.3f}", (steps[best], values[best]), color=HELD, xytext=(0, -16),
            textcoords="offset points", ha="center", annotation_clip=False,
        )  # fmt: skip
        axes.margins(y=0.12)
    axes.set_title(label("손실 (토큰당 nat)", "Loss (nats a token)"))
    axes.set_xlabel(label("스텝", "step"))
    if axes.lines:
        axes.legend()
    else:
        axes.text(0.5, 0.5, label("기록이 없습니다", "nothing logged"), ha="center", transform=axes.transAxes)


def _draw_second(axes: "Axes", history: list[dict[str, Any]]) -> None:
    """Next-token accuracy where it was measured, or else the learning rate."""
    key = accuracy_key(history)
    steps, values = series(history, key or "learning_rate")
    axes.plot(steps, values, color=HELD if key else OTHER, marker="o" if key else "", markersize=4, linewidth=1.8)
    axes.set_title(
        label("다음 토큰 정확도 (검증)", "Next-token accuracy (validation)")
        if key
        else label("학습률", "Learning rate")
    )
    axes.set_xlabel(label("스텝", "step"))
    if not key:
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=False)


def _draw_memory(axes: "Axes", memory: Memory) -> None:
    parts = (
        (memory.before, label("시작 전", "before"), "#9db7cc"),
        (memory.training, label("학습에 쓴 몫", "training"), TRAIN),
        (max(0, memory.device - memory.peak), label("남은 몫", "free"), FREE),
    )
    left = 0.0
    for size, name, colour in parts:
        shown = f"{name} {size / GIB:.1f} GiB ({size / memory.device:.0%})"
        axes.barh(0, size / GIB, left=left, color=colour, height=0.5, label=shown)
        left += size / GIB
    axes.axvline(memory.peak / GIB, color=HELD, linewidth=1.5)
    peak = label("최대", "peak") + f" {memory.peak / GIB:.1f} GiB ({memory.peak / memory.device:.0%})"
    side = "left" if memory.peak < memory.device * 0.6 else "right"
    axes.text(memory.peak / GIB, 0.42, f" {peak} ", color=HELD, ha=side, va="center")
    axes.set_ylim(-0.35, 0.6)
    axes.set_xlim(0, memory.device / GIB)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("GiB")
    axes.set_title(label("메모리", "Memory"))
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)


def _as_svg(figure: "Figure") -> str:
    """The figure as an `<svg>` element, without the XML header."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def curves_svg(history: list[dict[str, Any]]) -> str:
    """Loss, and accuracy or learning rate, side by side."""
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(10.4, 3.9), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        _draw_loss(left, history)
        _draw_second(right, history)
        return _as_svg(figure)


def memory_svg(memory: Memory) -> str:
    """Memory before, for training and free, as one bar."""
    from matplotlib.figure import Figure

    with _style():
        figure = Figure(figsize=(10.4, 2.2), layout="constrained")
        _draw_memory(figure.subplots(), memory)
        return _as_svg(figure)


def report_png(title: str, lines: list[str], history: list[dict[str, Any]], memory: Memory | None, file: Path) -> None:
    """One picture of the whole run: title, facts, curves and memory."""
    from matplotlib.figure import Figure

    with _style():
        heights = [0.9, 3.6, *([1.9] if memory else [])]
        figure = Figure(figsize=(11, sum(heights) + 0.4), layout="constrained", dpi=150)
        parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
        parts[0].text(0.012, 0.93, title, fontsize=17, weight="bold", va="top")
        for i, line in enumerate(lines):
            parts[0].text(0.012, 0.48 - 0.3 * i, line, fontsize=10.5, color="#5d6876", va="top")
        left, right = parts[1].subplots(1, 2, width_ratios=[3, 2])
        _draw_loss(left, history)
        _draw_second(right, history)
        if memory:
            _draw_memory(parts[2].subplots(), memory)
        figure.savefig(file, format="png")
