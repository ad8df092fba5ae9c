"""From the name of a loss to the training criterion."""

from collections.abc import Callable

import jax
import numpy as np

import focal_sam_jax as fsam
from experiments.config import Config

# (logits, labels, epoch) -> a loss for every example.
Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

# What LDAM multiplies cosines by, as published.
_LDAM_SCALE = 30.0


def make_loss(config: Config, class_counts: np.ndarray) -> Loss:
    """The loss of every example, from logits, labels and the epoch counted from 0.

    With deferred re-weighting an example's loss is multiplied by its class's weight;
    the mean over a batch is not divided by the weights.
    """
    per_example = _per_example_loss(config, class_counts)
    if config.drw_start is None:
        return lambda logits, labels, epoch: per_example(logits, labels)

    def reweighted(logits, labels, epoch):
        weights = fsam.losses.deferred_weights(
            class_counts, epoch, start_epoch=config.drw_start
        )
        return weights[labels] * per_example(logits, labels)

    return reweighted


def probabilities(config: Config, logits: jax.Array) -> jax.Array:
    """What a network trained by the loss of ``config`` believes of each class.

    The softmax of its logits. LDAM trains on cosines that it multiplies by a scale,
    and so they are here.

    Args:
      config: its loss matters.
      logits: of a network in evaluation, ``(batch, num_classes)``.

    Returns:
      Floats of that shape, whose sum over the classes is 1.
    """
    return jax.nn.softmax(logits * softmax_scale(config))


def softmax_scale(config: Config) -> float:
    """What logits are multiplied by before their softmax says what is believed."""
    return _LDAM_SCALE if config.loss == "ldam" else 1.0


def _per_example_loss(config, class_counts):
    losses = fsam.losses
    match config.loss:
        case "ce":
            return losses.cross_entropy
        case "focal":
            return losses.focal
        case "ldam":
            return lambda logits, labels: losses.ldam(
                logits, labels, class_counts, scale=_LDAM_SCALE
            )
        case "vs":
            return lambda logits, labels: losses.vector_scaling(
                logits, labels, class_counts
            )
        case "la":
            return lambda logits, labels: losses.logit_adjusted(
                logits, labels, class_counts
            )
