"""One step of training and one of evaluation, pure functions.

Neither knows which method runs: that is the optimizer's business.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

import focal_sam_jax as fsam
from experiments.models import Model

Metrics = dict[str, jax.Array]


class TrainState(NamedTuple):
    """All that training changes.

    Attributes:
      step: updates made so far, int32, ().
      params: parameters of the network.
      batch_stats: running statistics of its BatchNorm layers.
      opt_state: state of the optimizer.
    """

    step: jax.Array
    params: chex.ArrayTree
    batch_stats: chex.ArrayTree
    opt_state: Any


def init_state(
    key: jax.Array, model: Model, tx: optax.GradientTransformation
) -> TrainState:
    """A network at its start."""
    params, batch_stats = model.init(key)
    return TrainState(
        jnp.zeros((), jnp.int32), params, batch_stats, opt_state=tx.init(params)
    )


def make_train_step(
    model: Model,
    tx: optax.GradientTransformationExtraArgs,
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    num_classes: int,
) -> Callable[[TrainState, jax.Array, jax.Array], tuple[TrainState, Metrics]]:
    """The function ``(state, images, labels) -> (state, metrics)``.

    The BatchNorm statistics it keeps are those of the pass at the parameters, not at
    the perturbed ones. Its metrics are ``loss`` and ``train_accuracy`` there, means
    over the batch, and with a sharpness-aware method what that saw on its way.
    """

    def train_step(state, images, labels):
        def per_class_loss(params):
            logits, batch_stats = model.apply(
                params, state.batch_stats, images, train=True
            )
            losses = fsam.per_class_losses(loss(logits, labels), labels, num_classes)
            return losses, (batch_stats, logits)

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
        accuracy = jnp.mean(logits.argmax(-1) == labels, dtype=value.dtype)
        metrics = {"loss": value, "train_accuracy": accuracy}
        for name in fsam.SharpnessInfo._fields:
            seen = optax.tree.get(opt_state, name)
            if seen is not None:
                metrics[name] = seen
        return TrainState(state.step + 1, params, batch_stats, opt_state), metrics

    return train_step


class EvalSums(NamedTuple):
    """Sums over examples, so that those of batches add up to those of a set, exactly.

    Attributes:
      correct: right answers of each class, int32, ``(num_classes,)``.
      loss: sum of the training loss, ().
    """

    correct: jax.Array
    loss: jax.Array


def make_eval_step(
    model: Model,
    loss: Callable[[jax.Array, jax.Array], jax.Array],
    num_classes: int,
) -> Callable[[TrainState, jax.Array, jax.Array, jax.Array], EvalSums]:
    """The function ``(state, images, labels, real) -> sums``, over what is ``real``."""

    def eval_step(state, images, labels, real):
        logits, _ = model.apply(state.params, state.batch_stats, images, train=False)
        right = real & (logits.argmax(-1) == labels)
        members = labels[:, None] == jnp.arange(num_classes)[None, :]
        return EvalSums(
            correct=jnp.sum(members & right[:, None], axis=0, dtype=jnp.int32),
            loss=jnp.sum(jnp.where(real, loss(logits, labels), 0)),
        )

    return eval_step
