"""Pictures of runs. The colours are Okabe and Ito's: the colour-blind see them too."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.metrics import SCORES, SHOTS

_SHOT_COLOURS = {"many": "#0072B2", "medium": "#56B4E9", "few": "#E69F00"}
_BLACK, _ORANGE, _GREEN = "#000000", "#D55E00", "#009E73"


def per_class_accuracy(
    path: Path,
    accuracy: list[float | None],
    class_counts: np.ndarray,
    class_names: tuple[str, ...],
    shots: np.ndarray,
    title: str,
) -> None:
    """Test accuracy of every class, the most frequent first, and its training count."""
    figure = Figure(figsize=(max(6.4, 0.28 * len(accuracy)), 4.0), layout="constrained")
    axes = figure.subplots()
    position = np.arange(len(accuracy))
    height = np.array([np.nan if a is None else a for a in accuracy], dtype=float)
    for shot in SHOTS:
        chosen = shots == shot
        if chosen.any():
            axes.bar(
                position[chosen],
                100 * height[chosen],
                color=_SHOT_COLOURS[shot],
                label=f"{shot}-shot",
            )
    labels = [
        f"{name}\n{count}"
        for name, count in zip(class_names, class_counts, strict=True)
    ]
    axes.set_xticks(position, labels, rotation=90 if len(labels) > 20 else 0)
    axes.set_xlabel("class, and its number of training examples")
    axes.set_ylabel("test accuracy (%)")
    axes.set_ylim(0, 100)
    axes.set_title(title)
    _finish(axes)
    figure.savefig(path, dpi=150)


def training_curves(path: Path, rows: list[dict[str, Any]], title: str) -> None:
    """Loss and accuracies over the epochs of one run."""
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    train = [row for row in rows if row["split"] == "train"]
    epochs = [row["epoch"] for row in train]
    loss_axes.plot(epochs, [row["loss"] for row in train], color=_BLACK)
    loss_axes.set_yscale("log")
    loss_axes.set_ylabel("training loss, mean over the epoch")
    accuracy_axes.plot(
        epochs,
        [100 * row["train_accuracy"] for row in train],
        color=_BLACK,
        label="training, augmented",
    )
    validation = [row for row in rows if row["split"] == "validation"]
    for key, label, colour in (
        ("accuracy", "validation", _GREEN),
        ("accuracy_few", "validation, few-shot", _ORANGE),
    ):
        points = [(r["epoch"], r[key]) for r in validation if r[key] is not None]
        accuracy_axes.plot(
            [epoch for epoch, _ in points],
            [100 * accuracy for _, accuracy in points],
            color=colour,
            marker=".",
            label=label,
        )
    accuracy_axes.set_ylabel("accuracy (%)")
    accuracy_axes.set_ylim(0, 100)
    for axes in (loss_axes, accuracy_axes):
        axes.set_xlabel("epoch")
        axes.set_xlim(0, epochs[-1])
    _finish(accuracy_axes)
    _finish(loss_axes, legend=False)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def method_comparison(path: Path, rows: list[dict[str, Any]], title: str) -> None:
    """Accuracy of every method, overall and by group; a dot a seed, a bar the mean."""
    figure = Figure(figsize=(11.0, 3.8), layout="constrained")
    panels = figure.subplots(1, 4, sharex=True)
    names = [row["name"] for row in rows]
    for axes, key in zip(panels, SCORES, strict=True):
        for position, row in enumerate(rows):
            if row[key] is None:
                continue
            values = 100 * np.array(row[key]["values"], dtype=float)
            axes.plot(
                np.full(len(values), position), values, "o", color=_GREEN, alpha=0.45
            )
            axes.hlines(
                np.mean(values), position - 0.3, position + 0.3, color=_BLACK, lw=2
            )
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
        axes.set_title(key.replace("accuracy_", "").replace("accuracy", "overall"))
        _finish(axes, legend=False)
    panels[0].set_ylabel("test accuracy (%)")
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def _finish(axes: Axes, legend: bool = True) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    if legend:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False)
