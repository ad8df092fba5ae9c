"""One step of training and one of evaluation, pure functions.

Neither knows which method runs: that is the optimizer's business. Sums of evaluation
add up to those of a whole set, exactly, for any batch size and any number of devices
and hosts: what only fills up a batch is masked.
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
from experiments.skipping import Skipped, all_finite, count, none_skipped, select

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
        skipped=none_skipped(),
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

        def forward(params):
            return model.apply(params, state.batch_stats, batch.images, train=True)

        def per_example_losses(params):
            logits, batch_stats = forward(params)
            return loss(logits, batch.labels, epoch), (batch_stats, logits)

        def mixed_losses(params):
            logits, batch_stats = forward(params)

            def losses(labels):
                return fsam.per_class_losses(
                    loss(logits, labels, epoch), labels, num_classes
                )

            # An image of two classes belongs to both, by their shares.
            mixed = batch.share * losses(batch.labels)
            mixed += (1 - batch.share) * losses(batch.other_labels)
            return mixed, (batch_stats, logits)

        if batch.other_labels is None:
            here = fsam.evaluate(
                per_example_losses,
                state.params,
                labels=batch.labels,
                num_classes=num_classes,
                has_aux=True,
                per_example=model.per_example,
            )
        else:
            here = fsam.evaluate(mixed_losses, state.params, has_aux=True)
        batch_stats, logits = here.aux
        updates, opt_state = tx.update(
            here.grads, state.opt_state, state.params, evaluation=here
        )
        params = optax.apply_updates(state.params, updates)
        average = state.average and optax.incremental_update(
            (params, batch_stats), state.average, 1 - ema
        )

        seen = {
            "steps": jnp.ones(()),
            "loss": here.loss,
            "train_accuracy": jnp.mean(logits.argmax(-1) == batch.labels),
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
            skipped=count(state.skipped, good, state.step, max_skipped),
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
