"""Means over seeds, and differences paired by seed with their 95 % intervals."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


class Summary(NamedTuple):
    """A mean, and the spread of the values or of the mean.

    Attributes:
      mean: mean of the values.
      spread: their sample standard deviation, or for :func:`paired_difference` half the
        width of the interval. NaN for a single value.
    """

    mean: float
    spread: float


def summarise(values: Sequence[float]) -> Summary:
    """Computes mean and sample standard deviation."""
    array = np.asarray(values, dtype=float)
    deviation = array.std(ddof=1) if len(array) > 1 else np.nan
    return Summary(float(array.mean()), float(deviation))


def paired_difference(values: Sequence[float], others: Sequence[float]) -> Summary:
    r"""Computes the mean of the paired differences and its 95 % t-interval.

    With n seeds and the sample standard deviation s of the differences

    .. math::
      \bar d \pm t_{0.975,\, n - 1} \, s / \sqrt{n}

    which holds the true mean in 95 of 100 experiments if differences are normal.
    """
    differences = np.asarray(values, dtype=float) - np.asarray(others, dtype=float)
    mean, size = float(differences.mean()), len(differences)
    if size < 2:
        return Summary(mean, np.nan)
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, size - 1)
    return Summary(mean, float(quantile * stats.sem(differences)))


def as_json(summary: Summary) -> dict[str, float | None]:
    """Returns JSON, with ``None`` for NaN."""
    spread = None if np.isnan(summary.spread) else summary.spread
    return {"mean": summary.mean, "spread": spread}
