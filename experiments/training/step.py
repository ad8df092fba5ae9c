"""One step of training, a pure function.

It does not know which method runs: that is the optimizer's business. A step in which a
number was not finite has no effect, and is counted.
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
      total: how many, int32, ().
      in_row: how many up to now without a good one between, int32, ().
      stalled_at: number of the step with which the first row that was too long began,
        counted from 0; -1 if there was none. int32, ().
    """

    total: jax.Array
    in_row: jax.Array
    stalled_at: jax.Array


class TrainState(NamedTuple):
    """All that training changes.

    Attributes:
      step: steps made so far, skipped ones too, int32, ().
      params: parameters of the network.
      batch_stats: running statistics of its BatchNorm layers.
      opt_state: state of the optimizer.
      average: exponential moving averages of ``(params, batch_stats)``, or ``()``.
      skipped: steps without effect.
      sums: over the good steps of this epoch: what each saw, and their number "steps".
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
    """A network at its start."""
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
    """The function ``(state, frozen, images, labels) -> state``.

    ``images`` are augmented and normalised, ``(batch, height, width, channels)``,
    float32, ``labels`` int32, ``(batch,)``, ``frozen`` the network's frozen weights.

    The BatchNorm statistics it keeps are those of the pass at the parameters, not at
    the perturbed ones, and so are the loss and the accuracy that it sums up.

    A step in which the loss at either point, the update or a statistic is not finite
    leaves parameters, statistics and optimizer as they were, schedules included, and is
    counted.
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
        # The sum of all shares is 1 from the first step on, without the random start.
        share = (1 - config.ema) / (1 - config.ema ** (state.step + 1))
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


# What a sharpness-aware method sees on its way.
_SEEN = fsam.SharpnessInfo._fields


def epoch_means(sums: Sums) -> dict[str, float | None]:
    """Means over the good steps of an epoch; ``None`` if there were none."""
    steps = sums["steps"]
    return {
        name: float(total / steps) if steps else None
        for name, total in sums.items()
        if name != "steps"
    }


def none_skipped() -> Skipped:
    """At the start of training."""
    return Skipped(*(jnp.full((), n, jnp.int32) for n in (0, 0, -1)))


def all_finite(tree) -> jax.Array:
    """Whether every number in the tree is finite, bool, ()."""
    # The largest size of each array, which NaN is passed on to. A bool of each would be
    # fused into whatever depends on the result, and take XLA several times as long.
    largest = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.isfinite(jnp.stack(largest)))


def select(condition: jax.Array, here, there):
    """The one tree or the other."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), here, there)


def count(
    skipped: Skipped, good: jax.Array, step: jax.Array, max_skipped: int
) -> Skipped:
    """With one more step, of that number, in the count.

    Args:
      skipped: before it.
      good: whether it had an effect, bool, ().
      step: its number, counted from 0, int32, ().
      max_skipped: from how many in a row on training has stalled.
    """
    in_row = jnp.where(good, 0, skipped.in_row + 1)
    too_long = (in_row >= max_skipped) & (skipped.stalled_at < 0)
    return Skipped(
        total=skipped.total + ~good,
        in_row=in_row,
        stalled_at=jnp.where(too_long, step + 1 - in_row, skipped.stalled_at),
    )
