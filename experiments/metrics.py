"""Accuracies and calibration from sums over examples; all shot thresholds."""

import math
from typing import NamedTuple

import numpy as np


class ShotThresholds(NamedTuple):
    """Class sizes that separate few-shot, medium-shot and many-shot classes.

    Attributes:
      few_below: few-shot classes have fewer training examples than this.
      many_above: many-shot classes have more than this.
    """

    few_below: float
    many_above: float


SHOTS = ("many", "medium", "few")
# The names under which accuracies are reported.
SCORES = ("accuracy", *(f"accuracy_{shot}" for shot in SHOTS))

# By data set and imbalance factor, as in the published Focal-SAM code. Factor 20 is not
# published: its thresholds, chosen here, give groups as large as those of factor 100.
_BY_FACTOR = {
    "cifar10": {
        10: ShotThresholds(few_below=835, many_above=2319),
        20: ShotThresholds(few_below=500, many_above=1500),
        50: ShotThresholds(few_below=200, many_above=1500),
        100: ShotThresholds(few_below=200, many_above=1000),
        200: ShotThresholds(few_below=100, many_above=800),
    },
    "cifar100": {
        10: ShotThresholds(few_below=99, many_above=265),
        20: ShotThresholds(few_below=61, many_above=175),
        50: ShotThresholds(few_below=20, many_above=100),
        100: ShotThresholds(few_below=20, many_above=100),
        200: ShotThresholds(few_below=10, many_above=60),
    },
}
# Fashion-MNIST has as many classes; its largest has 6000 images, not 5000.
_BY_FACTOR["fashion_mnist"] = _BY_FACTOR["cifar10"]
_DIGITS = ShotThresholds(few_below=10, many_above=40)
_LARGE = ShotThresholds(few_below=20, many_above=100)


def shot_thresholds(
    data: str, imbalance_factor: float, imbalance: str, held_out: float = 0.0
) -> ShotThresholds:
    """Returns the thresholds of a data set.

    For a tail cut out of CIFAR or Fashion-MNIST they depend on its imbalance factor. A
    factor without its own thresholds uses those of the nearest factor, by ratio. The
    digits have their own; ImageNet-LT and all other data share one pair.

    Args:
      data: name of the data set, as in the configuration.
      imbalance_factor: examples of the largest class over those of the smallest.
      imbalance: how the tail is cut: "exp", "step", or "natural" for no cut.
      held_out: share of every class that is held out; the thresholds, which are for
        whole classes, shrink by it.
    """
    if data == "digits":
        few, many = _DIGITS
    elif data not in _BY_FACTOR or imbalance == "natural":
        few, many = _LARGE
    else:
        of_factor = _BY_FACTOR[data]
        nearest = min(of_factor, key=lambda f: abs(math.log(f / imbalance_factor)))
        few, many = of_factor[nearest]
    return ShotThresholds(few * (1 - held_out), many * (1 - held_out))


def shot_of_class(class_counts: np.ndarray, thresholds: ShotThresholds) -> np.ndarray:
    """Returns the name of each class's group, strings, ``(num_classes,)``."""
    return np.select(
        [class_counts > thresholds.many_above, class_counts < thresholds.few_below],
        ["many", "few"],
        default="medium",
    )


def accuracies(
    confusion: np.ndarray, class_counts: np.ndarray, thresholds: ShotThresholds
) -> dict[str, float | list[float | None] | None]:
    """Computes overall, group and per-class accuracy, as fractions.

    The accuracy of a group is the unweighted mean over its classes. A class without
    examples has ``None`` and counts in no mean; a group without a class that has
    examples has ``None`` too.

    Args:
      confusion: number of examples by true class (rows) and predicted class (columns),
        int, ``(num_classes, num_classes)``; at least one example in all.
      class_counts: *training* examples of each class, which define the groups, int,
        ``(num_classes,)``.
      thresholds: thresholds of the groups.
    """
    right, asked = np.diagonal(confusion), confusion.sum(axis=1)
    of_class = right / np.where(asked, asked, 1)
    groups = shot_of_class(class_counts, thresholds)
    result: dict[str, float | list[float | None] | None] = {
        "accuracy": float(right.sum() / asked.sum())
    }
    for shot in SHOTS:
        group = of_class[(groups == shot) & (asked > 0)]
        result[f"accuracy_{shot}"] = float(group.mean()) if len(group) else None
    result["accuracy_per_class"] = [
        float(accuracy) if n else None
        for accuracy, n in zip(of_class, asked, strict=True)
    ]
    return result


def expected_calibration_error(calibration: np.ndarray) -> float:
    r"""Computes the expected calibration error, a fraction.

    The confidence of a prediction is its softmax probability. With :math:`B_m` the
    examples whose confidence falls into the m-th bin, of n examples in all,

    .. math::
      \mathrm{ECE} = \sum_m \frac{|B_m|}{n} |\mathrm{acc}(B_m) - \mathrm{conf}(B_m)|

    Args:
      calibration: for every bin the number of examples, the sum of their confidences
        and the number of correct predictions, float, ``(3, bins)``; at least one
        example in all.

    References:
      Guo et al., `On Calibration of Modern Neural Networks
      <https://arxiv.org/abs/1706.04599>`_, ICML 2017, section 2
    """
    size, confidence, right = np.asarray(calibration, dtype=np.float64)
    return float(np.abs(right - confidence).sum() / size.sum())
