"""Construction of the training criterion from a loss name."""

from collections.abc import Callable

import jax
import numpy as np

import focal_sam_jax as fsam
from experiments.config import Config

# (logits, labels, epoch) -> a loss for every example.
Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]

# LDAM's published factor of the cosines.
_LDAM_SCALE = 30.0


def make_loss(config: Config, class_counts: np.ndarray) -> Loss:
    """Returns a function of logits, labels and epoch, from 0, to per-example losses.

    With deferred re-weighting, an example's loss is multiplied by its class's weight.
    The mean over a batch is not divided by the weights.
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
    """Computes class probabilities of a network trained by the loss of ``config``.

    They are the softmax of the logits. For LDAM, which trains on scaled cosines, the
    logits are multiplied by the same scale.

    Args:
      config: its loss is used.
      logits: logits in evaluation mode, ``(batch, num_classes)``.

    Returns:
      Floats of the same shape, which sum to 1 over the classes.
    """
    return jax.nn.softmax(logits * softmax_scale(config))


def softmax_scale(config: Config) -> float:
    """Returns the factor by which logits are multiplied before the softmax."""
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
