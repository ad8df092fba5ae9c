"""The results as one figure."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments.config import METHOD_NAMES
from experiments.figures.style import COLOURS, finish, log_axis, save, styles

Row = dict[str, Any]
Panel = tuple[str, Callable[[Axes], None]]

_FRAMEWORKS = {
    "jax": ("JAX", COLOURS[2]),
    "torch": ("PyTorch", COLOURS[5]),
    "torch_compile": ("torch.compile", COLOURS[1]),
    "torch_authors": ("the authors' PyTorch", COLOURS[4]),
}
_NAMES = METHOD_NAMES | {
    "cc_sam_head": "CC-SAM, last layer",
    "focal_sam_unshared": "Focal-SAM, two passes",
}
_MODELS = {
    "resnet20": "ResNet-20",
    "resnet32": "ResNet-32",
    "resnet44": "ResNet-44",
    "resnet56": "ResNet-56",
    "resnet50": "ResNet-50",
    "vit_b16": "ViT-B/16",
    "vit_b16_adaptformer": "ViT-B/16 with AdaptFormer",
    "vit_digits": "small ViT",
}
_COLUMNS = 3


def benchmark_figure(path: Path, results: dict[str, Any]) -> None:
    """Draws the cost of steps and epochs as bars; growth and seeds as curves.

    Args:
      path: path of the PNG.
      results: results as in the JSON; unmeasured sections are left out. If nothing
        was measured, no file is written.
    """
    panels = list(_panels(results))
    if not panels:
        return
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


def _panels(results) -> Iterator[Panel]:
    rated = [row for row in results["rows"] if _rated(row)]
    for group in _groups(rated, ("model", "batch_size", "dtype")):
        model, batch, dtype = group
        rows = _of(rated, group, ("model", "batch_size", "dtype"))
        yield f"step of {_MODELS[model]}, batches of {batch}, {dtype}", _costs(rows)
    if epochs := [row for row in results.get("epochs", []) if _rated(row)]:
        yield "epoch of CIFAR-100-LT", _costs(epochs)
    if results.get("seeds"):
        curves = _curves(
            results["seeds"], "seeds", "ratio_one_seed", "time of one seed = 1"
        )
        yield "several seeds in one program", curves
    for (over,) in _groups(results.get("growth", []), ("over",)):
        rows = _of(results["growth"], (over,), ("over",))
        name = over.replace("_", " ")
        curves = _curves(rows, "value", "ms_median", "ms per step")
        yield f"growth with the {name}", curves


def _rated(row):
    """Whether SGD was timed too, and the row is of another method."""
    return row["ratio_sgd"] is not None and row["method"] != "sgd"


def _groups(rows, fields):
    return list(dict.fromkeys(tuple(row[field] for field in fields) for row in rows))


def _of(rows, group, fields):
    return [row for row in rows if tuple(row[field] for field in fields) == group]


def _costs(rows: list[Row]) -> Callable[[Axes], None]:
    """Returns a function that draws the time of every method, SGD = 1, as bars."""

    def draw(axes):
        methods = [method for (method,) in _groups(rows, ("method",))]
        frameworks = [name for (name,) in _groups(rows, ("framework",))]
        width = 0.8 / len(frameworks)
        for number, framework in enumerate(frameworks):
            mine = [row for row in rows if row["framework"] == framework]
            places = np.array([methods.index(row["method"]) for row in mine])
            shift = (number - (len(frameworks) - 1) / 2) * width
            ratios = [row["ratio_sgd"] for row in mine]
            name, colour = _FRAMEWORKS[framework]
            bars = axes.bar(places + shift, ratios, width, color=colour, label=name)
            axes.bar_label(bars, [f"{r:.1f}" for r in ratios], fontsize=7, padding=1)
        axes.set_xticks(
            range(len(methods)), [_NAMES[m] for m in methods], rotation=25, ha="right"
        )
        log_axis(axes)
        axes.set_ylim(bottom=1)
        axes.set_ylabel("× SGD in the same framework")
        finish(axes)

    return draw


def _curves(
    rows: list[Row], across: str, height: str, label: str
) -> Callable[[Axes], None]:
    """Returns a function that draws a curve per method on log axes."""

    def draw(axes):
        methods = [method for (method,) in _groups(rows, ("method",))]
        looks = styles(_NAMES[method] for method in methods)
        for method, look in zip(methods, looks, strict=True):
            mine = sorted(_of(rows, (method,), ("method",)), key=lambda r: r[across])
            axes.plot(
                [row[across] for row in mine],
                [row[height] for row in mine],
                marker="o",
                label=_NAMES[method],
                ms=4,
                **look,
            )
        values = sorted({row[across] for row in rows})
        axes.set_xscale("log")
        log_axis(axes)
        axes.set_xticks(values, [f"{value:,}" for value in values])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_ylabel(label)
        finish(axes)

    return draw
