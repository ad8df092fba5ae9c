"""Figure of the accuracy of every class."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures.style import (
    BLACK,
    GREY,
    LARGE_NAMES,
    LINE_STYLES,
    NAMED,
    SHOT_COLOURS,
    count_axis,
    edges,
    finish,
    frequency_order,
    moving_average,
    name_classes,
    name_size,
    save,
    styles,
)
from experiments.metrics import SHOTS

# Markers of groups, one for each line style.
_MARKERS = "osD^"


def per_class_accuracy(
    path: Path,
    accuracy: Mapping[str, np.ndarray],
    differences: Mapping[str, np.ndarray],
    class_counts: np.ndarray,
    class_names: Sequence[str] | None,
    shots: np.ndarray,
    title: str,
) -> None:
    """Draws per-class test accuracy of one or more groups of runs.

    The most frequent class comes first. With more than 100 classes a value is a mean
    over classes of similar frequency.

    Args:
      path: path of the PNG.
      accuracy: by group name, a fraction for every class, ``(num_classes,)``; NaN, of a
        class that was not tested, leaves a gap.
      differences: by group name, mean difference from plain SGD and half its 95 %
        interval for each class, as fractions, ``(2, num_classes)``; empty for no panel
        of differences, as with more than 100 classes.
      class_counts: training examples of each class, int, ``(num_classes,)``.
      class_names: a name for each class, or ``None``.
      shots: the name of each class's group.
      title: title of the figure.
    """
    size = len(class_counts)
    smooth = size > NAMED
    order = frequency_order(class_counts)
    counts, shots = class_counts[order], shots[order]
    accuracy = {name: 100 * values[order] for name, values in accuracy.items()}
    differences = {name: 100 * two[:, order] for name, two in differences.items()}
    heights = (3, 3, 1) if differences else (3, 1)
    figure = Figure(figsize=(9.0, 2.6 + 0.8 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights)
    axes, count_axes = panels[0], panels[-1]
    rank = np.arange(size)
    if smooth:
        width = size // 20 | 1
        looks = zip(styles(accuracy), accuracy.items(), strict=True)
        for style, (name, values) in looks:
            mean = moving_average(values, width)
            axes.plot(rank, mean, label=name, lw=1.4, **style)
        axes.set_ylabel(f"test accuracy (%),\nmean of {width} classes")
    else:
        looks = dict(zip(accuracy, styles(accuracy), strict=True))
        for axis, values in zip(panels, (accuracy, differences), strict=False):
            _dodged(axis, values, looks)
        axes.set_ylabel("test accuracy (%)")
        untested = np.all(np.isnan(list(accuracy.values())), axis=0)
        for place in rank[untested]:
            where = {"transform": axes.get_xaxis_transform(), "rotation": 90}
            where |= {"ha": "center", "va": "bottom", "fontsize": name_size(size)}
            axes.text(place, 0.02, "not tested", color=GREY, **where)
    if differences:
        panels[1].axhline(0, color=BLACK, lw=1)
        panels[1].set_ylabel("difference from SGD\n(points, 95 % interval)")
        finish(panels[1], legend=False)
    axes.set_ylim(max(axes.get_ylim()[0], 0), 100)
    for shot in SHOTS:
        chosen = shots == shot
        if chosen.any():
            columns, colour = edges(rank[chosen]), SHOT_COLOURS[shot]
            low, high = columns[[0, -1]]
            for panel in panels[:-1]:
                panel.axvspan(low, high, color=colour, alpha=0.12, lw=0)
            where = {"transform": axes.get_xaxis_transform(), "ha": "center"}
            axes.text((low + high) / 2, 1.01, shot, color=GREY, **where)
            count_axes.stairs(counts[chosen], columns, fill=True, color=colour)
    axes.set_xlim(-0.5, size - 0.5)
    count_axis(count_axes, counts)
    count_axes.set_xlabel("class, from most to fewest training examples")
    if class_names is not None and not smooth:
        name_classes(count_axes, class_names, order)
    finish(axes, legend=len(accuracy) > 1)
    finish(count_axes, legend=False)
    figure.suptitle(title)
    save(figure, path)


def _dodged(
    axes: Axes,
    values: Mapping[str, np.ndarray],
    looks: Mapping[str, dict[str, Any]],
) -> None:
    """Draws a marker for every class and group, the groups of a class side by side.

    ``values`` have the shape ``(num_classes,)``, or with error bars
    ``(2, num_classes)``.
    """
    for place, (name, look) in enumerate(looks.items()):
        if name not in values:
            continue
        heights, *bars = np.atleast_2d(values[name])
        shift = 0.7 * ((place + 0.5) / len(looks) - 0.5)
        axes.errorbar(
            np.arange(len(heights)) + shift,
            heights,
            *bars,
            label=name,
            color=look["color"],
            fmt=_MARKERS[LINE_STYLES.index(look["linestyle"])],
            ms=4 if len(heights) <= LARGE_NAMES else 2,
            elinewidth=1,
            clip_on=False,
        )
