"""Style that all figures share. Okabe and Ito's colours suit colour-blind readers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogLocator, NullFormatter

from experiments.figures.fonts import choose_fonts, drawable_names

SHOT_COLOURS = {"many": "#0072B2", "medium": "#56B4E9", "few": "#E69F00"}
BLACK, GREEN, ORANGE, GREY = "#000000", "#009E73", "#D55E00", "#777777"
# For things without an order; with the line styles, enough for 28.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LINE_STYLES = ("-", "--", ":", "-.")
_OF_METHODS = {
    "SGD": "#000000",
    "SAM": "#56B4E9",
    "ImbSAM": "#009E73",
    "CC-SAM": "#D55E00",
    "SSE-SAM": "#CC79A7",
    "Focal-SAM": "#0072B2",
}
# Maximum numbers of classes with names, and with names in full size.
NAMED, LARGE_NAMES = 100, 20


def styles(names: Iterable[str]) -> list[dict[str, Any]]:
    """Returns colour and line style of every group of runs, by its name.

    A method has its own colour, and its second group another line style. If all groups
    are of one method, or of none, they differ in colour first, then in line style.
    """
    names = list(names)
    methods = [
        next((part for part in name.split(", ") if part in _OF_METHODS), None)
        for name in names
    ]
    found, seen = [], Counter()
    for place, method in enumerate(methods):
        if method is None or len(set(methods)) == 1:
            turn, number = divmod(place, len(COLOURS))
            colour = COLOURS[number]
        else:
            turn, colour = seen[method], _OF_METHODS[method]
            seen[method] += 1
        style = LINE_STYLES[turn % len(LINE_STYLES)]
        found.append({"color": colour, "linestyle": style})
    return found


def frequency_order(class_counts: np.ndarray) -> np.ndarray:
    """Returns the classes, the most frequent first, int, ``(num_classes,)``."""
    return np.argsort(-np.asarray(class_counts), kind="stable")


def edges(places: np.ndarray) -> np.ndarray:
    """Returns edges of columns at successive integers, float, ``(size + 1,)``."""
    return np.append(places - 0.5, places[-1] + 0.5)


def percent(fractions: Sequence[float | None]) -> np.ndarray:
    """Converts to percent; ``None`` becomes NaN, which is not drawn."""
    return 100 * np.array([np.nan if f is None else f for f in fractions], dtype=float)


def moving_average(values: np.ndarray, width: int) -> np.ndarray:
    """Computes means over ``width`` neighbours, fewer at the ends, ignoring NaN.

    Args:
      values: float, ``(size,)``.
      width: an odd number.

    Returns:
      Float array of shape ``(size,)``; NaN if all neighbours are NaN.
    """
    half = width // 2
    known = np.isfinite(values)
    sums, sizes = (
        np.convolve(addends, np.ones(width))[half : half + len(values)]
        for addends in (np.where(known, values, 0.0), known)
    )
    return np.where(sizes > 0, sums / np.maximum(sizes, 1), np.nan)


def name_classes(axes: Axes, class_names: Sequence[str], order: np.ndarray) -> None:
    """Names the classes on the horizontal axis, turned if they would touch.

    Args:
      axes: axes to be named.
      class_names: names of all classes, in label order.
      order: the classes along the axis, int, ``(num_classes,)``.
    """
    drawn = drawable_names(class_names)
    if drawn != list(class_names):
        axes.figure.supxlabel(
            "numbers replace names with letters that no font on this machine has",
            fontsize=7,
            color=GREY,
        )
    names = [drawn[c] for c in order]
    if len(names) * max(map(len, names)) <= 80:
        turn = {}
    elif len(names) <= LARGE_NAMES:
        turn = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    else:
        turn = {"rotation": 90}
    axes.set_xticks(
        range(len(names)),
        [name if len(name) <= 24 else name[:23] + "…" for name in names],
        fontsize=name_size(len(names)),
        **turn,
    )


def name_size(num_classes: int) -> float:
    """Returns the font size of class names, in points."""
    return 9.0 if num_classes <= LARGE_NAMES else 6.0


def log_axis(axes: Axes, digits: Sequence[int] = (1, 2, 5)) -> None:
    """Makes the vertical axis logarithmic; its numbers begin with ``digits``."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=digits, numticks=12))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
    axes.yaxis.set_minor_formatter(NullFormatter())


def count_axis(axes: Axes, class_counts: np.ndarray) -> None:
    """Makes the vertical axis show training examples, at powers of ten."""
    log_axis(axes, digits=(1,))
    axes.set_ylim(min(class_counts) / 2, max(class_counts) * 2)
    axes.set_ylabel("training\nexamples")


def finish(axes: Axes, legend: bool = True) -> None:
    """Removes spines, adds a grid, and puts the legend beside the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    if legend:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)


def save(figure: Figure, path: Path) -> None:
    """Saves a PNG, fine enough for print; dollar signs do not start formulas."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    choose_fonts(figure)
    figure.savefig(path, dpi=200)
