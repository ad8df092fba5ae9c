"""A configuration, compiled: what a run repeats, as three functions.

Data stay on the device, the state is donated from step to step, nothing is compiled
twice, and nothing waits for the host inside an epoch.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.config import Config
from experiments.data.augment import random_affine
from experiments.data.batches import (
    PaddedBatches,
    batches_per_epoch,
    shuffled_batches,
)
from experiments.data.dataset import Dataset
from experiments.methods import make_loss, make_optimizer
from experiments.models import resnet_digits
from experiments.step import (
    EvalSums,
    Metrics,
    TrainState,
    init_state,
    make_eval_step,
    make_train_step,
)


class Trainer(NamedTuple):
    """What a run is made of; with ``over_seeds`` all arrays lead with a seed axis.

    Attributes:
      init: ``key -> state``.
      run_epoch: ``(state, data, key, epoch) -> (state, metrics)``, the metrics being
        means over the steps. It consumes the state.
      evaluate: ``(state, batches) -> sums`` over a whole set.
      steps_per_epoch: updates in an epoch.
    """

    init: Callable[[jax.Array], TrainState]
    run_epoch: Callable[..., tuple[TrainState, Metrics]]
    evaluate: Callable[[TrainState, PaddedBatches], EvalSums]
    steps_per_epoch: int


def scan_is_fast() -> bool:
    """Whether a whole epoch should be one ``lax.scan``, and seeds one ``vmap``.

    On GPU and TPU it should. XLA's CPU backend runs convolutions inside a loop, or with
    a batch of kernels, many times slower than one after the other.
    """
    return jax.default_backend() != "cpu"


def make_trainer(
    config: Config, dataset: Dataset, *, over_seeds: bool = False
) -> Trainer:
    """Builds and compiles, lazily, what trains ``config`` on data of that shape.

    Args:
      config: the run.
      dataset: gives sizes and class counts; the data itself are passed to
        ``run_epoch``, so that one trainer serves many subsets of equal counts.
      over_seeds: train several seeds at once.
    """
    size, num_classes = len(dataset.train.labels), len(dataset.class_counts)
    steps_per_epoch = batches_per_epoch(size, config.batch_size)
    model = resnet_digits(num_classes, width=config.width)
    tx = make_optimizer(config, dataset.class_counts, config.epochs * steps_per_epoch)
    loss = make_loss(config, dataset.class_counts)
    train_step = make_train_step(model, tx, loss, num_classes)
    eval_step = make_eval_step(model, loss, num_classes)

    def order_of(key, epoch):
        return shuffled_batches(_order_key(key), epoch, size, config.batch_size)

    def step(state, data, order, key):
        rows = order[state.step % steps_per_epoch]
        images, labels = data.images[rows], data.labels[rows]
        if config.augment:
            key = jax.random.fold_in(_augment_key(key), state.step)
            images = random_affine(key, images)
        return train_step(state, images, labels)

    def scanned_epoch(state, data, key, epoch):
        order = order_of(key, epoch)
        state, metrics = jax.lax.scan(
            lambda state, _: step(state, data, order, key),
            state,
            length=steps_per_epoch,
        )
        return state, jax.tree.map(jnp.mean, metrics)

    def evaluate(state, batches):
        sums = [eval_step(state, *batch) for batch in zip(*batches, strict=True)]
        return jax.tree.map(lambda *parts: sum(parts), *sums)

    batch = jax.vmap if over_seeds else lambda function, **_: function
    if over_seeds or scan_is_fast():
        run_epoch = jax.jit(
            batch(scanned_epoch, in_axes=(0, 0, 0, None)), donate_argnums=0
        )
    else:
        run_epoch = _looped_epoch(order_of, step, steps_per_epoch)
    return Trainer(
        init=jax.jit(batch(lambda key: init_state(_init_key(key), model, tx))),
        run_epoch=run_epoch,
        evaluate=jax.jit(batch(evaluate)),
        steps_per_epoch=steps_per_epoch,
    )


def _looped_epoch(order_of, step, steps_per_epoch):
    """The same epoch as a Python loop of compiled steps, dispatched ahead."""
    order_of = jax.jit(order_of)
    step = jax.jit(step, donate_argnums=0)

    @jax.jit
    def mean(metrics):
        return jax.tree.map(lambda *values: jnp.mean(jnp.stack(values)), *metrics)

    def run_epoch(state, data, key, epoch):
        order = order_of(key, epoch)
        metrics = []
        for _ in range(steps_per_epoch):
            state, of_step = step(state, data, order, key)
            metrics.append(of_step)
        return state, mean(metrics)

    return run_epoch


# The streams of randomness of a run. Each is a function of the seed, and the step or
# epoch is folded in where it is used: a resumed run draws what it would have drawn.
def _init_key(key: jax.Array) -> jax.Array:
    return jax.random.fold_in(key, 0)


def _order_key(key: jax.Array) -> jax.Array:
    return jax.random.fold_in(key, 1)


def _augment_key(key: jax.Array) -> jax.Array:
    return jax.random.fold_in(key, 2)
