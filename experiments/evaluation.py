"""How good a state is on a set it has not seen."""

from typing import Any

import numpy as np

from experiments.data.batches import PaddedBatches, padded_batches
from experiments.data.dataset import Dataset, Split
from experiments.metrics import ShotThresholds, accuracies
from experiments.step import EvalSums

_BATCH_SIZE = 512


def evaluation_batches(split: Split) -> PaddedBatches:
    """The whole set, in as few batches as is reasonable."""
    return padded_batches(split, min(_BATCH_SIZE, len(split.labels)))


def scores(
    sums: EvalSums, split: Split, dataset: Dataset, thresholds: ShotThresholds
) -> dict[str, Any]:
    """Mean loss and accuracies, as JSON, of the sums over a split."""
    size = len(split.labels)
    return {
        "loss": float(sums.loss) / size,
        **accuracies(
            np.asarray(sums.correct), split.labels, dataset.class_counts, thresholds
        ),
    }
