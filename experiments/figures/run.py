"""Figures of one run."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from experiments.figures.style import (
    BLACK,
    GREEN,
    GREY,
    LARGE_NAMES,
    NAMED,
    ORANGE,
    finish,
    frequency_order,
    log_axis,
    name_classes,
    name_size,
    percent,
    save,
)
from experiments.metrics import SHOTS, expected_calibration_error

# Maximum number of classes for which a confusion matrix shows numbers.
_ANNOTATED = 10
# With more classes, a row of the matrix would be smaller than a dot.
LARGEST_MATRIX = 1000


def training_curves(path: Path, rows: list[dict[str, Any]], title: str) -> None:
    """Draws loss and accuracies over the epochs of one run.

    Args:
      path: path of the PNG.
      rows: rows of the metrics, at least one of the split "train"; those of the split
        "validation" may be missing, and numbers may be ``None``.
      title: title of the figure.
    """
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    train = [row for row in rows if row["split"] == "train"]
    epochs = [row["epoch"] for row in train]
    marker = "." if len(train) == 1 else None
    loss = np.array([row["loss"] for row in train], dtype=float)
    loss_axes.plot(epochs, loss, marker=marker, color=BLACK)
    log_axis(loss_axes)
    loss_axes.set_ylabel("training loss, mean over the epoch")
    accuracy_axes.plot(
        epochs,
        percent([row["train_accuracy"] for row in train]),
        color=BLACK,
        marker=marker,
        label="training, augmented",
    )
    validation = [row for row in rows if row["split"] == "validation"]
    for key, label, colour in (
        ("accuracy", "validation", GREEN),
        ("accuracy_few", "validation, few-shot", ORANGE),
    ):
        points = [(r["epoch"], r[key]) for r in validation if r[key] is not None]
        if points:
            accuracy_axes.plot(
                [epoch for epoch, _ in points],
                [100 * accuracy for _, accuracy in points],
                color=colour,
                marker="." if len(points) <= 50 else None,
                label=label,
            )
    accuracy_axes.set_ylabel("accuracy (%)")
    accuracy_axes.set_ylim(0, 100)
    for axes in (loss_axes, accuracy_axes):
        axes.set_xlabel("epoch")
        axes.set_xlim(0, epochs[-1])
        axes.xaxis.get_major_locator().set_params(integer=True)
    finish(accuracy_axes)
    finish(loss_axes, legend=False)
    figure.suptitle(title)
    save(figure, path)


def confusion_matrix(
    path: Path,
    confusion: np.ndarray,
    class_counts: np.ndarray,
    class_names: tuple[str, ...],
    shots: np.ndarray,
    title: str,
) -> None:
    """Draws the confusion matrix in percent of each true class.

    The most frequent class comes first. Lines separate the many-, medium- and few-shot
    classes. More than 100 classes are merged into at most 100 blocks of similar
    frequency. With more than ``LARGEST_MATRIX`` classes the blocks are too large.

    Args:
      path: path of the PNG.
      confusion: number of test examples by true class (rows) and predicted class
        (columns), int, ``(num_classes, num_classes)``.
      class_counts: training examples of each class, int, ``(num_classes,)``.
      class_names: a name for each class.
      shots: the name of each class's group, ``(num_classes,)``.
      title: title of the figure.
    """
    size = len(confusion)
    order = frequency_order(class_counts)
    confusion, shots = np.asarray(confusion)[np.ix_(order, order)], shots[order]
    block = -(-size // NAMED)
    starts = np.arange(0, size, block)
    for axis in (0, 1):
        confusion = np.add.reduceat(confusion, starts, axis=axis)
    asked = confusion.sum(axis=1, keepdims=True)
    share = np.where(asked, 100 * confusion / np.where(asked, asked, 1), np.nan)
    side = 6.0 if size <= LARGE_NAMES else 8.5
    figure = Figure(figsize=(side + 1.0, side), layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("#DDDDDD")
    # A square root makes small shares visible.
    norm = PowerNorm(0.5, vmin=0, vmax=100)
    corners = np.append(starts, size) - 0.5
    image = axes.pcolormesh(corners, corners, share, cmap="cividis", norm=norm)
    axes.set_aspect("equal")
    axes.invert_yaxis()
    if size <= _ANNOTATED:
        for (row, column), value in np.ndenumerate(share):
            if np.isfinite(value):
                colour = "white" if norm(value) < 0.6 else BLACK
                text = f"{value:.0f}"
                axes.text(column, row, text, ha="center", va="center", color=colour)
    for border in np.flatnonzero(shots[1:] != shots[:-1]) + 0.5:
        axes.axhline(border, color="white", lw=1.2)
        axes.axvline(border, color="white", lw=1.2)
    for shot in SHOTS:
        places = np.flatnonzero(shots == shot)
        if len(places):
            axes.text(
                places.mean(),
                1.005,
                shot,
                transform=axes.get_xaxis_transform(),
                ha="center",
                va="bottom",
            )
    if size <= NAMED:
        name_classes(axes, class_names, order)
        axes.set_yticks(axes.get_xticks(), axes.get_xticklabels())
        axes.tick_params(axis="y", labelsize=name_size(size))
    rest = f", from most to fewest training examples, in blocks of {block}"
    rest = rest if block > 1 else ""
    axes.set_xlabel("predicted class" + rest)
    axes.set_ylabel("true class" + rest)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=(0, 1, 5, 20, 50, 100))
    bar.set_label("share of the true class (%)")
    figure.suptitle(title)
    save(figure, path)


def reliability_diagram(path: Path, calibration: np.ndarray, title: str) -> None:
    """Draws accuracy against confidence, and the share of examples per bin.

    Args:
      path: path of the PNG.
      calibration: for equal bins of confidence the number of examples, the sum of their
        confidences and the number of correct predictions, float, ``(3, bins)``.
      title: title of the figure.
    """
    size, confidence, right = np.asarray(calibration, dtype=np.float64)
    bins = len(size)
    left = np.linspace(0, 100, bins + 1)[:-1]
    filled = size > 0
    figure = Figure(figsize=(6.0, 5.6), layout="constrained")
    axes, size_axes = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    accuracy = 100 * right[filled] / size[filled]
    mean = 100 * confidence[filled] / size[filled]
    style = {"width": 100 / bins, "align": "edge", "edgecolor": "white"}
    axes.bar(left[filled], accuracy, color="#56B4E9", label="accuracy", **style)
    axes.plot((0, 100), (0, 100), color=GREY, ls="--", label="perfect calibration")
    axes.vlines(mean, accuracy, mean, color=ORANGE, lw=2, label="gap to the confidence")
    error = expected_calibration_error(calibration)
    axes.set_title(f"expected calibration error {100 * error:.1f} %", fontsize=10)
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(0, 100)
    share = 100 * size / size.sum()
    size_axes.bar(left, share, color=GREY, **style)
    size_axes.set_ylabel("examples (%)")
    size_axes.set_xlabel("confidence, the largest softmax probability (%)")
    size_axes.set_xlim(0, 100)
    finish(axes)
    finish(size_axes, legend=False)
    figure.suptitle(title)
    save(figure, path)
