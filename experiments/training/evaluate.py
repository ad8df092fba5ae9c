"""Evaluation of a network on a set: sums over its examples, and scores from them.

The sums of batches add up to those of the whole set, counts exactly and losses up to
rounding, for any batch size and any number of devices and processes: padding is masked.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Config
from experiments.data.dataset import normalised
from experiments.data.images.resize import eval_view
from experiments.metrics import (
    ShotThresholds,
    accuracies,
    expected_calibration_error,
    shot_of_class,
    shot_thresholds,
)
from experiments.models import Model


class EvalSums(NamedTuple):
    """Sums over the examples of a set.

    Attributes:
      confusion: number of examples by class and prediction, int32,
        ``(num_classes, num_classes)``.
      calibration: number, sum of confidences and number of correct predictions in every
        bin of confidence, float32, ``(3, 15)``.
      loss: sum of the training loss, float32, ().
    """

    confusion: jax.Array
    calibration: jax.Array
    loss: jax.Array


_BINS = 15


def no_sums(num_classes: int) -> EvalSums:
    """Returns the sums over no example."""
    return EvalSums(
        jnp.zeros((num_classes, num_classes), jnp.int32),
        jnp.zeros((3, _BINS)),
        jnp.zeros(()),
    )


def eval_logits(
    config: Config,
    model: Model,
    network: tuple[chex.ArrayTree, chex.ArrayTree],
    frozen: chex.ArrayTree,
    images: jax.Array,
    mean: jax.typing.ArrayLike,
    std: jax.typing.ArrayLike,
) -> jax.Array:
    """Computes the logits of stored images, in evaluation mode.

    Args:
      config: its image sizes are used.
      model: the network.
      network: its parameters and BatchNorm statistics.
      frozen: its frozen weights.
      images: pixels of any dtype, ``(batch, height, width, channels)``.
      mean: mean of the pixels of each channel, ``(channels,)``.
      std: their standard deviation.

    Returns:
      ``(batch, num_classes)``.
    """
    seen = eval_view(config, images.astype(jnp.float32))
    seen = normalised(seen, mean, std)
    logits, _ = model.given(frozen).apply(*network, seen, train=False)
    return logits


def add_batch(
    sums: EvalSums,
    probabilities: jax.Array,
    losses: jax.Array,
    labels: jax.Array,
    real: jax.Array,
) -> EvalSums:
    """Adds a batch to the sums.

    Args:
      sums: sums before it.
      probabilities: class probabilities, ``(batch, num_classes)``.
      losses: losses of the examples, ``(batch,)``.
      labels: int, ``(batch,)``.
      real: which examples count, bools, ``(batch,)``; the others are padding.
    """
    answers, confidence = probabilities.argmax(-1), probabilities.max(-1)
    # Bins include their upper edge; the first also its lower edge.
    bins = jnp.ceil(confidence * _BINS).astype(jnp.int32) - 1
    bins = jnp.clip(bins, 0, _BINS - 1)
    of_example = jnp.stack([jnp.ones_like(confidence), confidence, answers == labels])
    return EvalSums(
        confusion=sums.confusion.at[labels, answers].add(real.astype(jnp.int32)),
        calibration=sums.calibration.at[:, bins].add(
            jnp.where(real[None, :], of_example, 0)
        ),
        loss=sums.loss + jnp.sum(jnp.where(real, losses, 0)),
    )


def scores(sums: EvalSums, class_counts: np.ndarray, config: Config) -> dict[str, Any]:
    """Computes mean loss, accuracies and calibration error from sums, as JSON."""
    confusion = np.asarray(sums.confusion)
    return {
        "loss": float(sums.loss) / int(confusion.sum()),
        **group_accuracies(confusion, class_counts, config),
        "ece": expected_calibration_error(np.asarray(sums.calibration)),
    }


def group_accuracies(
    confusion: np.ndarray, class_counts: np.ndarray, config: Config
) -> dict[str, Any]:
    """Computes accuracies overall, per group and per class, as JSON."""
    return accuracies(confusion, class_counts, thresholds(config))


def shots(class_counts: np.ndarray, config: Config) -> np.ndarray:
    """Returns the group of each class, strings, ``(num_classes,)``."""
    return shot_of_class(class_counts, thresholds(config))


def thresholds(config: Config) -> ShotThresholds:
    """Returns the class sizes that separate the groups."""
    return shot_thresholds(
        config.data, config.imbalance_factor, config.imbalance, config.held_out
    )
