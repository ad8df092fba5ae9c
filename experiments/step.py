"""One step of training, a pure function.

It does not know which method runs: that is the optimizer's business.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

import focal_sam_jax as fsam
from experiments.methods import Loss
from experiments.models import Model

Sums = dict[str, jax.Array]


class Batch(NamedTuple):
    """What a step learns from, after augmentation.

    Attributes:
      images: normalised, float32, ``(batch, height, width, channels)``.
      labels: int32, ``(batch,)``.
      other_labels: of the images mixed in, or ``None``.
      share: of ``labels`` in the loss, (); the rest is ``other_labels``'s.
    """

    images: jax.Array
    labels: jax.Array
    other_labels: jax.Array | None = None
    share: jax.Array | None = None


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
        """The parameters and statistics to judge by: the averages where there are."""
        return self.average or (self.params, self.batch_stats)


TrainStep = Callable[[TrainState, Batch], TrainState]


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
        skipped=Skipped(*(jnp.full((), n, jnp.int32) for n in (0, 0, -1))),
        sums={name: jnp.zeros(()) for name in seen},
    )


def make_train_step(
    model: Model,
    tx: optax.GradientTransformationExtraArgs,
    loss: Loss,
    num_classes: int,
    steps_per_epoch: int,
    *,
    ema: float,
    max_skipped: int,
) -> TrainStep:
    """The function ``(state, batch) -> state``.

    The BatchNorm statistics it keeps are those of the pass at the parameters, not at
    the perturbed ones, and so are the loss and the accuracy that it sums up.

    A step in which the loss at either point, the update or a statistic is not finite
    leaves parameters, statistics and optimizer as they were, schedules included, and is
    counted.
    """

    def train_step(state: TrainState, batch: Batch) -> TrainState:
        epoch = state.step // steps_per_epoch

        def per_class_loss(params):
            logits, batch_stats = model.apply(
                params, state.batch_stats, batch.images, train=True
            )

            def losses(labels):
                return fsam.per_class_losses(
                    loss(logits, labels, epoch), labels, num_classes
                )

            if batch.other_labels is None:
                return losses(batch.labels), (batch_stats, logits)
            # An image of two classes belongs to both, by their shares.
            mixed = batch.share * losses(batch.labels)
            mixed += (1 - batch.share) * losses(batch.other_labels)
            return mixed, (batch_stats, logits)

        def mean_loss(params):
            losses, aux = per_class_loss(params)
            return jnp.sum(losses), aux

        (value, (batch_stats, logits)), grads = jax.value_and_grad(
            mean_loss, has_aux=True
        )(state.params)
        updates, opt_state = tx.update(
            grads, state.opt_state, state.params, per_class_loss_fn=per_class_loss
        )
        params = optax.apply_updates(state.params, updates)
        average = state.average and optax.incremental_update(
            (params, batch_stats), state.average, 1 - ema
        )

        seen = {
            "steps": jnp.ones(()),
            "loss": value,
            "train_accuracy": jnp.mean(logits.argmax(-1) == batch.labels),
        }
        seen |= {name: optax.tree.get(opt_state, name) for name in _SEEN}
        good = _all_finite((seen, updates, batch_stats))
        first = state.step % steps_per_epoch == 0

        def add(name):
            so_far = jnp.where(first, 0, state.sums[name])
            return so_far + jnp.where(good, seen[name], 0)

        kept = _where(
            good,
            (params, batch_stats, opt_state, average),
            (state.params, state.batch_stats, state.opt_state, state.average),
        )
        return TrainState(
            state.step + 1,
            *kept,
            skipped=_count(state.skipped, good, state.step, max_skipped),
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


def _all_finite(tree) -> jax.Array:
    leaves = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(leaves))


def _where(condition, here, there):
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), here, there)


def _count(
    skipped: Skipped, good: jax.Array, step: jax.Array, max_skipped: int
) -> Skipped:
    in_row = jnp.where(good, 0, skipped.in_row + 1)
    too_long = (in_row >= max_skipped) & (skipped.stalled_at < 0)
    return Skipped(
        total=skipped.total + ~good,
        in_row=in_row,
        stalled_at=jnp.where(too_long, step + 1 - in_row, skipped.stalled_at),
    )
