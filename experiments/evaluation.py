"""How good a network is on a set: scores, from the sums over its examples."""

from typing import Any

import numpy as np

from experiments.config import Config
from experiments.metrics import (
    ShotThresholds,
    accuracies,
    expected_calibration_error,
    shot_of_class,
    shot_thresholds,
)
from experiments.step import EvalSums


def scores(sums: EvalSums, class_counts: np.ndarray, config: Config) -> dict[str, Any]:
    """Mean loss, accuracies and calibration error, as JSON, of the sums over a set."""
    confusion = np.asarray(sums.confusion)
    return {
        "loss": float(sums.loss) / int(confusion.sum()),
        **accuracies(confusion, class_counts, _thresholds(config)),
        "ece": expected_calibration_error(np.asarray(sums.calibration)),
    }


def shots(class_counts: np.ndarray, config: Config) -> np.ndarray:
    """Which group each class is in, strings, ``(num_classes,)``."""
    return shot_of_class(class_counts, _thresholds(config))


def _thresholds(config: Config) -> ShotThresholds:
    few, many = shot_thresholds(config.data, config.imbalance_factor, config.imbalance)
    # Those of the whole classes, of which a part was set aside.
    share = 1 - config.held_out
    return ShotThresholds(few * share, many * share)
