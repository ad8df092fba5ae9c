"""A configuration as pure functions: start, data order, a step, a look at a batch.

Randomness is a function of the seed and of the step or epoch, so that a resumed run
draws what it would have drawn.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Sharding

from experiments.config import Config
from experiments.data.augment import augment
from experiments.data.batches import shuffled_batches
from experiments.data.dataset import Dataset
from experiments.data.mixing import mixup
from experiments.data.views import judged_views
from experiments.methods import make_loss, make_optimizer
from experiments.models import make_model, mean_over_views
from experiments.step import (
    Batch,
    EvalSums,
    TrainState,
    init_state,
    make_eval_step,
    make_train_step,
)


class Program(NamedTuple):
    """What a run computes; nothing here is compiled yet.

    Attributes:
      init: ``key -> state``.
      frozen: weights of the network that training leaves as they are, on the host.
      order: ``(key, epoch) -> order``, which rows of a set in memory make the batches
        of an epoch, int, ``(steps_per_epoch, batch_size)``.
      step: ``(state, frozen, (images, labels), key) -> state`` from pixels as they are
        stored.
      step_in_memory: ``(state, frozen, (split, order), key) -> state``, with the batch
        of that step.
      look: ``(sums, state, frozen, images, labels, real) -> sums`` evaluates a batch.
    """

    init: Callable[[jax.Array], TrainState]
    frozen: Any
    order: Callable[[jax.Array, jax.typing.ArrayLike], jax.Array]
    step: Callable[..., TrainState]
    step_in_memory: Callable[..., TrainState]
    look: Callable[..., EvalSums]


def make_program(
    config: Config,
    dataset: Dataset,
    batch_size: int,
    steps_per_epoch: int,
    rows: Sharding,
) -> Program:
    """The program of ``config`` for data of that shape.

    Args:
      config: the run.
      dataset: gives sizes, class counts and normalisation, not the images.
      batch_size: examples in a step.
      steps_per_epoch: steps in an epoch.
      rows: how the examples of a batch lie over the devices.
    """
    size, num_classes = len(dataset.train.labels), len(dataset.class_counts)
    model = make_model(config, num_classes, channels=len(dataset.mean))
    tx = make_optimizer(config, dataset.class_counts, steps_per_epoch)
    loss = make_loss(config, dataset.class_counts)
    mean = jnp.asarray(dataset.mean)

    def init(key):
        return init_state(_stream(key, _INIT), model, tx, ema=config.ema)

    def order(key, epoch):
        return shuffled_batches(_stream(key, _ORDER), epoch, size, batch_size)

    def step(state, frozen, inputs, key):
        train_step = make_train_step(
            model.given(frozen),
            tx,
            loss,
            num_classes,
            steps_per_epoch,
            ema=config.ema,
            max_skipped=config.max_skipped,
        )
        images, labels = inputs
        images = jax.lax.with_sharding_constraint(images, rows)
        labels = jax.lax.with_sharding_constraint(labels, rows)
        augment_key = jax.random.fold_in(_stream(key, _AUGMENT), state.step)
        images = augment(config, augment_key, images.astype(jnp.float32), mean)
        batch = Batch(dataset.normalised(images), labels)
        if config.mixup:
            mixup_key = jax.random.fold_in(_stream(key, _MIXUP), state.step)
            batch = Batch(*mixup(mixup_key, batch.images, labels, config.mixup))
        return train_step(state, batch)

    def step_in_memory(state, frozen, inputs, key):
        split, order = inputs
        chosen = order[state.step % steps_per_epoch]
        return step(state, frozen, (split.images[chosen], split.labels[chosen]), key)

    def look(sums, state, frozen, images, labels, real):
        # The training criterion as it was in the last step.
        epoch = jnp.maximum(state.step - 1, 0) // steps_per_epoch
        views = judged_views(config, dataset.normalised(images))
        network = mean_over_views(model.given(frozen))
        add = make_eval_step(network, lambda *example: loss(*example, epoch))
        return add(sums, state.evaluated, views, labels, real)

    return Program(init, model.frozen, order, step, step_in_memory, look)


_INIT, _ORDER, _AUGMENT, _MIXUP = range(4)


def _stream(key: jax.Array, purpose: int) -> jax.Array:
    """A stream of randomness of its own for every purpose."""
    return jax.random.fold_in(key, purpose)
