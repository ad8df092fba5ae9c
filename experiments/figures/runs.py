"""Figures that compare methods, or other groups of runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from experiments.figures.style import (
    BLACK,
    GREEN,
    finish,
    log_axis,
    save,
    styles,
)
from experiments.metrics import SCORES


def method_comparison(path: Path, rows: list[dict[str, Any]], title: str) -> None:
    """Draws the accuracy of every method, overall and by group of classes.

    Dots are seeds, a line is the mean, and a bar is one standard deviation either side.

    Args:
      path: path of the PNG.
      rows: one per method, with its ``name`` and for each score ``None`` or ``mean``,
        ``spread`` (``None`` for a single seed) and ``values``, as fractions.
      title: title of the figure.
    """
    height = 1.7 + 0.34 * len(rows)
    figure = Figure(figsize=(10.0, height), layout="constrained")
    shown = [key for key in SCORES if any(row[key] for row in rows)]
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    names = [row["name"] for row in rows]
    for axes, key in zip(panels, shown, strict=True):
        for place, row in enumerate(rows):
            if row[key] is None:
                continue
            values = 100 * np.array(row[key]["values"], dtype=float)
            mean, spread = 100 * row[key]["mean"], 100 * (row[key]["spread"] or 0)
            axes.plot(
                values,
                np.full(len(values), place),
                "o",
                color=GREEN,
                alpha=0.45,
                ms=5,
                clip_on=False,
            )
            axes.vlines(mean, place - 0.28, place + 0.28, color=BLACK, lw=2)
            if spread:
                axes.hlines(place, mean - spread, mean + spread, color=BLACK, lw=1)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_title(key.replace("accuracy_", "").replace("accuracy", "overall"))
        # Room for the dots, but no accuracy above 100 %.
        axes.set_xlim(right=min(axes.get_xlim()[1], 100.0))
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
        finish(axes, legend=False)
        axes.grid(axis="x", alpha=0.3)
    figure.supxlabel("test accuracy (%): seeds, mean and standard deviation", size=10)
    figure.suptitle(title)
    save(figure, path)


def learning_curves(
    path: Path, rows: Mapping[str, Sequence[list[dict[str, Any]]]], title: str
) -> None:
    """Draws training loss and validation accuracy of all groups of runs.

    A line is the mean over seeds at the epochs that all have, the band one standard
    deviation to either side. Without a validation split there is no accuracy.

    Args:
      path: path of the PNG.
      rows: by group name, the metrics rows of each run.
      title: title of the figure.
    """
    panels = [("train", "loss", 1, "training loss, mean over the epoch")]
    if any(r["split"] == "validation" for runs in rows.values() for r in runs[0]):
        panels.append(("validation", "accuracy", 100, "validation accuracy (%)"))
    width = 2.5 + 3.6 * len(panels)
    figure = Figure(figsize=(width, 3.8), layout="constrained")
    columns = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (split, key, factor, label) in zip(columns, panels, strict=True):
        for style, (name, runs) in zip(styles(rows), rows.items(), strict=True):
            _plot_mean(axes, runs, split, key, factor, label=name, **style)
        axes.set_xlabel("epoch")
        axes.set_xlim(left=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel(label)
        finish(axes, legend=axes is columns[-1])
    log_axis(columns[0])
    figure.suptitle(title)
    save(figure, path)


def _plot_mean(
    axes: Axes,
    runs: Sequence[list[dict[str, Any]]],
    split: str,
    key: str,
    factor: float,
    **style,
) -> None:
    points = [
        {
            row["epoch"]: factor * row[key]
            for row in rows
            if row["split"] == split and row[key] is not None
        }
        for rows in runs
    ]
    epochs = sorted(set.intersection(*map(set, points)))
    values = np.array([[of_run[epoch] for epoch in epochs] for of_run in points])
    mean = values.mean(axis=0)
    marker = "." if len(epochs) <= 30 else None
    axes.plot(epochs, mean, lw=1.4, marker=marker, **style)
    if len(runs) > 1:
        spread = values.std(axis=0, ddof=1)
        axes.fill_between(
            epochs, mean - spread, mean + spread, color=style["color"], alpha=0.15, lw=0
        )
