"""The results as one figure."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments.figures.style import COLOURS, finish, log_axis, save

Row = dict[str, Any]
Panel = tuple[str, Callable[[Axes], None]]

_FRAMEWORKS = {
    "jax": COLOURS[2],
    "torch": COLOURS[5],
    "torch_compile": COLOURS[1],
    "torch_authors": COLOURS[4],
}
_METHODS = {
    "sgd": COLOURS[0],
    "sam": COLOURS[6],
    "imbsam": COLOURS[3],
    "cc_sam_head": COLOURS[4],
    "cc_sam": COLOURS[1],
    "focal_sam": COLOURS[2],
    "focal_sam_unshared": COLOURS[5],
}
_COLUMNS = 3


def benchmark_figure(path: Path, results: dict[str, Any]) -> None:
    """Draws steps and epochs as bars; growth and seeds as curves.

    Args:
      path: path of the PNG.
      results: results as in the JSON; unmeasured sections are left out.
    """
    panels = list(_panels(results))
    lines = -(-len(panels) // _COLUMNS)
    columns = min(len(panels), _COLUMNS)
    figure = Figure(figsize=(5.0 * columns + 1.4, 3.6 * lines), layout="constrained")
    all_axes = figure.subplots(lines, columns, squeeze=False).flat
    for axes, (name, draw) in zip(all_axes, panels, strict=False):
        draw(axes)
        axes.set_title(name)
    for axes in list(all_axes)[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(f"{results['device']['kind']}, {results['date']}")
    save(figure, path)


def _panels(results):
    for group in _groups(results["rows"], ("model", "batch_size", "dtype")):
        model, batch, dtype = group
        rows = _of(results["rows"], group, ("model", "batch_size", "dtype"))
        yield f"{model}, batch {batch}, {dtype}", _bars(rows, "ms_median", "ms a step")
    if results.get("epochs"):
        rows = results["epochs"]
        yield "epoch of CIFAR-100-LT", _bars(rows, "s_median", "seconds")
    if results.get("seeds"):
        title = "seeds in one program"
        yield title, _curves(results["seeds"], "seeds", "time / one seed", _one_seed)
    for (over,) in _groups(results.get("growth", []), ("over",)):
        rows = _of(results["growth"], (over,), ("over",))
        name = over.replace("_", " ")
        yield f"growth over {name}", _curves(rows, "value", "ms a step", _milliseconds)


def _groups(rows, fields):
    return list(dict.fromkeys(tuple(row[field] for field in fields) for row in rows))


def _of(rows, group, fields):
    return [row for row in rows if tuple(row[field] for field in fields) == group]


def _bars(rows: list[Row], field: str, label: str) -> Callable[[Axes], None]:
    """Returns a function that draws a bar per framework for every method."""

    def draw(axes):
        methods = [method for (method,) in _groups(rows, ("method",))]
        frameworks = [name for (name,) in _groups(rows, ("framework",))]
        width = 0.8 / len(frameworks)
        for number, framework in enumerate(frameworks):
            mine = [row for row in rows if row["framework"] == framework]
            places = [methods.index(row["method"]) for row in mine]
            shift = (number - (len(frameworks) - 1) / 2) * width
            heights = [row[field] for row in mine]
            bars = axes.bar(
                np.array(places) + shift,
                heights,
                width,
                color=_FRAMEWORKS[framework],
                label=framework,
            )
            ratios = [row["ratio_sgd"] for row in mine]
            texts = ["" if r is None else f"{r:.1f}" for r in ratios]
            axes.bar_label(bars, texts, fontsize=6, padding=1)
        names = [method.replace("_", " ") for method in methods]
        axes.set_xticks(range(len(methods)), names, rotation=25, ha="right")
        axes.set_ylabel(f"{label}; above, over SGD's")
        finish(axes)

    return draw


def _curves(
    rows: list[Row], across: str, label: str, height: Callable[[Row], float]
) -> Callable[[Axes], None]:
    """Returns a function that draws a curve per method on log axes."""

    def draw(axes):
        for (method,) in _groups(rows, ("method",)):
            mine = sorted(_of(rows, (method,), ("method",)), key=lambda r: r[across])
            axes.plot(
                [row[across] for row in mine],
                [height(row) for row in mine],
                "o-",
                color=_METHODS[method],
                label=method.replace("_", " "),
                ms=4,
            )
        values = sorted({row[across] for row in rows})
        axes.set_xscale("log")
        log_axis(axes)
        axes.set_xticks(values, [f"{value:,}" for value in values])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylabel(label)
        finish(axes)

    return draw


def _milliseconds(row):
    return row["ms_median"]


def _one_seed(row):
    return row["ratio_one_seed"]
