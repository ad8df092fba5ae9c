"""Means over seeds and differences paired by seed."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Summary(NamedTuple):
    """A mean and how far the values, or the mean, may be from it.

    Attributes:
      mean: of the values.
      spread: their sample standard deviation, or for :func:`paired_difference` the
        standard error of the mean. NaN for a single value.
    """

    mean: float
    spread: float


def summarise(values: Sequence[float]) -> Summary:
    """Mean and sample standard deviation."""
    array = np.asarray(values, dtype=float)
    return Summary(float(array.mean()), _deviation(array))


def paired_difference(values: Sequence[float], others: Sequence[float]) -> Summary:
    """Mean of the differences, seed by seed, and its standard error."""
    differences = np.asarray(values, dtype=float) - np.asarray(others, dtype=float)
    error = _deviation(differences) / np.sqrt(len(differences))
    return Summary(float(differences.mean()), float(error))


def _deviation(array: np.ndarray) -> float:
    return float(array.std(ddof=1)) if len(array) > 1 else float("nan")
