"""From right answers of each class to accuracies, and the one place of thresholds."""

from typing import NamedTuple

import numpy as np


class ShotThresholds(NamedTuple):
    """Which classes are few-shot and which many-shot; medium lies between.

    Attributes:
      few_below: few-shot classes have fewer training examples than this.
      many_above: many-shot classes have more than this.
    """

    few_below: int
    many_above: int


# By recipe. Digits-LT: classes 0-2, 3-6 and 7-9 at imbalance factor 30.
SHOT_THRESHOLDS = {"digits_lt": ShotThresholds(few_below=10, many_above=40)}

SHOTS = ("many", "medium", "few")
# The names under which accuracies are reported.
SCORES = ("accuracy", *(f"accuracy_{shot}" for shot in SHOTS))


def shot_of_class(class_counts: np.ndarray, thresholds: ShotThresholds) -> np.ndarray:
    """The name of each class's group, an array of strings ``(num_classes,)``."""
    return np.select(
        [class_counts > thresholds.many_above, class_counts < thresholds.few_below],
        ["many", "few"],
        default="medium",
    )


def accuracies(
    correct: np.ndarray,
    labels: np.ndarray,
    class_counts: np.ndarray,
    thresholds: ShotThresholds,
) -> dict[str, float | list[float] | None]:
    """Accuracy overall, of each group and of each class, as fractions.

    The accuracy of a group is the unweighted mean over its classes; a group without
    classes, and a class without examples, have ``None``.

    Args:
      correct: right answers of each class, ``(num_classes,)``.
      labels: the classes that were asked for, ``(size,)``.
      class_counts: *training* examples of each class, which make the groups.
      thresholds: of the groups.
    """
    asked = np.bincount(labels, minlength=len(correct))
    of_class = [
        float(right / n) if n else None for right, n in zip(correct, asked, strict=True)
    ]
    result = {"accuracy": float(correct.sum() / asked.sum())}
    groups = shot_of_class(class_counts, thresholds)
    for shot in SHOTS:
        group = [
            a
            for a, s in zip(of_class, groups, strict=True)
            if s == shot and a is not None
        ]
        result[f"accuracy_{shot}"] = float(np.mean(group)) if group else None
    result["accuracy_per_class"] = of_class
    return result
