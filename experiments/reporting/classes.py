"""Accuracy of every class: mean over seeds, and differences from plain SGD."""

import numpy as np

from experiments.figures.style import frequency_order
from experiments.reporting.groups import Group
from experiments.reporting.results import pairs
from experiments.reporting.runs import FinishedRun
from experiments.reporting.statistics import paired_difference


def class_accuracies(groups: list[Group]) -> dict[str, np.ndarray]:
    """Returns the mean accuracy of each class over the runs of a group, by its name.

    The most frequent class is first; NaN without test images, ``(num_classes,)``. Which
    class has a rank may depend on the seed of the subset.
    """
    return {g.name: np.mean([_by_rank(r) for r in g.runs], axis=0) for g in groups}


def class_differences(groups: list[Group]) -> dict[str, np.ndarray]:
    """Returns, for each group compared with plain SGD, its accuracy minus that of SGD.

    The values are the mean over paired seeds and half its 95 % interval for each class,
    in the order of :func:`class_accuracies`, float, ``(2, num_classes)``.
    """
    found = {}
    for group, other, own, others in pairs(groups):
        if other.config["method"] == "sgd":
            values, baseline = (np.stack(list(map(_by_rank, r))) for r in (own, others))
            columns = zip(values.T, baseline.T, strict=True)
            found[group.name] = np.array([paired_difference(*c) for c in columns]).T
    return found


def _by_rank(run: FinishedRun) -> np.ndarray:
    accuracy = np.array(run.tests["last"]["accuracy_per_class"], dtype=float)
    return accuracy[frequency_order(run.class_counts)]
