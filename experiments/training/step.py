"""One step of training as a pure function.

The step does not depend on the method, which is part of the optimizer. A step with a
number that is not finite has no effect, and is counted.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

import focal_sam_jax as fsam
from experiments.config import Config
from experiments.models import Model
from experiments.training.criterion import Loss

Sums = dict[str, jax.Array]


class Skipped(NamedTuple):
    """Steps without effect, because a number in them was not finite.

    Attributes:
      total: their number, int32, ().
      in_row: their number since the last good step, int32, ().
      stalled_at: first step of the first ``max_skipped`` skipped steps in a row,
        counted from 0; -1 if there were none. int32, ().
    """

    total: jax.Array
    in_row: jax.Array
    stalled_at: jax.Array


class TrainState(NamedTuple):
    """All that training changes.

    Attributes:
      step: number of steps so far, with skipped ones, int32, ().
      params: parameters of the network.
      batch_stats: running statistics of its BatchNorm layers.
      opt_state: state of the optimizer.
      average: exponential moving averages of ``(params, batch_stats)``, or ``()``.
      skipped: steps without effect.
      sums: sums of metrics over the good steps of this epoch; "steps" counts them.
    """

    step: jax.Array
    params: chex.ArrayTree
    batch_stats: chex.ArrayTree
    opt_state: Any
    average: Any
    skipped: Skipped
    sums: Sums

    @property
    def evaluated(self) -> tuple[chex.ArrayTree, chex.ArrayTree]:
        """The parameters and statistics that are evaluated: the averages, if any."""
        return self.average or (self.params, self.batch_stats)


# (state, frozen weights, normalised images, labels) -> state
TrainStep = Callable[[TrainState, Any, jax.Array, jax.Array], TrainState]


def init_state(
    key: jax.Array, model: Model, tx: optax.GradientTransformation, *, ema: float
) -> TrainState:
    """Makes the initial training state."""
    params, batch_stats = model.init(key)
    opt_state = tx.init(params)
    seen = ["steps", "loss", "train_accuracy"]
    seen += [name for name in _SEEN if optax.tree.get(opt_state, name) is not None]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=opt_state,
        # Copies: a buffer cannot be donated twice.
        average=jax.tree.map(jnp.copy, (params, batch_stats)) if ema else (),
        skipped=none_skipped(),
        sums={name: jnp.zeros(()) for name in seen},
    )


def make_train_step(
    config: Config,
    model: Model,
    tx: optax.GradientTransformationExtraArgs,
    loss: Loss,
    num_classes: int,
    steps_per_epoch: int,
) -> TrainStep:
    """Returns the function ``(state, frozen, images, labels) -> state``.

    ``images`` are augmented and normalised, ``(batch, height, width, channels)``,
    float32; ``labels`` are int32, ``(batch,)``; ``frozen`` are the frozen weights.

    The BatchNorm statistics, the loss and the accuracy are those at the parameters, not
    at the perturbed parameters.

    If the loss at either point, the update or a statistic is not finite, the step is
    counted as skipped. Parameters, statistics and optimizer state, including schedules,
    do not change.
    """

    def train_step(state, frozen, images, labels):
        network = model.given(frozen)
        epoch = state.step // steps_per_epoch

        def losses(params):
            logits, batch_stats = network.apply(
                params, state.batch_stats, images, train=True
            )
            return loss(logits, labels, epoch), (batch_stats, logits)

        here = fsam.evaluate(
            losses,
            state.params,
            labels=labels,
            num_classes=num_classes,
            has_aux=True,
            per_example=model.per_example,
        )
        batch_stats, logits = here.aux
        updates, opt_state = tx.update(
            here.grads, state.opt_state, state.params, evaluation=here
        )
        params = optax.apply_updates(state.params, updates)
        # The shares of all good steps sum to 1; the initial weights have no share.
        steps = state.step - state.skipped.total + 1
        share = (1 - config.ema) / (1 - config.ema**steps)
        average = state.average and optax.incremental_update(
            (params, batch_stats), state.average, share
        )

        seen = {
            "steps": jnp.ones(()),
            "loss": here.loss,
            "train_accuracy": jnp.mean(logits.argmax(-1) == labels),
        }
        seen |= {name: optax.tree.get(opt_state, name) for name in _SEEN}
        good = all_finite((seen, updates, batch_stats))
        first = state.step % steps_per_epoch == 0

        def add(name):
            so_far = jnp.where(first, 0, state.sums[name])
            return so_far + jnp.where(good, seen[name], 0)

        kept = select(
            good,
            (params, batch_stats, opt_state, average),
            (state.params, state.batch_stats, state.opt_state, state.average),
        )
        return TrainState(
            state.step + 1,
            *kept,
            skipped=count(state.skipped, good, state.step, config.max_skipped),
            sums={name: add(name) for name in state.sums},
        )

    return train_step


# Metrics that a sharpness-aware method reports.
_SEEN = fsam.SharpnessInfo._fields


def epoch_means(sums: Sums) -> dict[str, float | None]:
    """Computes means over the good steps of an epoch; ``None`` if there were none."""
    steps = sums["steps"]
    return {
        name: float(total / steps) if steps else None
        for name, total in sums.items()
        if name != "steps"
    }


def none_skipped() -> Skipped:
    """Returns the counts at the start."""
    return Skipped(*(jnp.full((), n, jnp.int32) for n in (0, 0, -1)))


def all_finite(tree) -> jax.Array:
    """Returns whether every number in the tree is finite, bool, ()."""
    # The largest magnitude of each array; NaN propagates to it. XLA would fuse a bool
    # of each array into all that depends on the result, and take several times as long.
    largest = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.isfinite(jnp.stack(largest)))


def select(condition: jax.Array, here, there):
    """Returns ``here`` if the condition is true, otherwise ``there``."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), here, there)


def count(
    skipped: Skipped, good: jax.Array, step: jax.Array, max_skipped: int
) -> Skipped:
    """Adds one step to the counts.

    Args:
      skipped: counts before the step.
      good: whether it had an effect, bool, ().
      step: its number, counted from 0, int32, ().
      max_skipped: training has stalled after this many in a row.
    """
    in_row = jnp.where(good, 0, skipped.in_row + 1)
    too_long = (in_row >= max_skipped) & (skipped.stalled_at < 0)
    return Skipped(
        total=skipped.total + ~good,
        in_row=in_row,
        stalled_at=jnp.where(too_long, step + 1 - in_row, skipped.stalled_at),
    )
