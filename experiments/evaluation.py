"""How good a network is on a set it has not seen: sums over examples, then scores.

Sums of batches add up to those of the set, exactly, for any batch size and any number
of devices and hosts: what only fills up a batch is masked.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Config
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
      confusion: examples by their class and the answer, int32,
        ``(num_classes, num_classes)``.
      calibration: number, sum of confidences and number of right answers in every bin
        of confidence, float32, ``(3, 15)``.
      loss: of the training loss, float32, ().
    """

    confusion: jax.Array
    calibration: jax.Array
    loss: jax.Array


EvalStep = Callable[..., EvalSums]

_BINS = 15


def no_sums(num_classes: int) -> EvalSums:
    """The sums over no example."""
    return EvalSums(
        jnp.zeros((num_classes, num_classes), jnp.int32),
        jnp.zeros((3, _BINS)),
        jnp.zeros(()),
    )


def make_eval_step(
    model: Model, loss: Callable[[jax.Array, jax.Array], jax.Array]
) -> EvalStep:
    """The function ``(sums, network, images, labels, real) -> sums``.

    ``network`` is ``(params, batch_stats)``, ``images`` are normalised, and only what
    is ``real``, bools of shape ``(batch,)``, counts.
    """

    def eval_step(
        sums: EvalSums,
        network: tuple[chex.ArrayTree, chex.ArrayTree],
        images: jax.Array,
        labels: jax.Array,
        real: jax.Array,
    ) -> EvalSums:
        logits, _ = model.apply(*network, images, train=False)
        answers = logits.argmax(-1)
        confidence = jax.nn.softmax(logits).max(-1)
        # The first bin is closed below, all are closed above.
        bins = jnp.ceil(confidence * _BINS).astype(jnp.int32) - 1
        bins = jnp.clip(bins, 0, _BINS - 1)
        of_example = jnp.stack(
            [jnp.ones_like(confidence), confidence, answers == labels]
        )
        return EvalSums(
            confusion=sums.confusion.at[labels, answers].add(real.astype(jnp.int32)),
            calibration=sums.calibration.at[:, bins].add(
                jnp.where(real[None, :], of_example, 0)
            ),
            loss=sums.loss + jnp.sum(jnp.where(real, loss(logits, labels), 0)),
        )

    return eval_step


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
