"""The compiled functions that train a configuration on the given devices.

Every step donates the state, nothing is compiled twice, and the host does not wait
inside :attr:`Trainer.advance`.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments import devices
from experiments.config import Config
from experiments.data.dataset import Dataset, normalised
from experiments.data.feed import EvalBatch, Inputs
from experiments.data.images.augment import augment, check_augmentation
from experiments.models import make_model
from experiments.randomness import AUGMENT, INIT, stream
from experiments.training.criterion import make_loss, probabilities
from experiments.training.evaluate import EvalSums, add_batch, eval_logits, no_sums
from experiments.training.optimizer import make_optimizer
from experiments.training.start import check_head_init, with_start
from experiments.training.step import TrainState, init_state, make_train_step


class Trainer(NamedTuple):
    """The functions of a run; with ``over_seeds`` all arrays begin with a seed axis.

    Attributes:
      init: ``key -> state``; the key is local to this process.
      advance: ``(state, inputs, key, steps) -> state`` makes ``steps`` steps of one
        epoch. It donates the state.
      evaluate: ``(state, batches) -> sums`` over a whole split.
      shapes: shapes of the state, each with its sharding.
      frozen: weights that training does not change.
      steps_per_epoch: steps in an epoch.
    """

    init: Callable[[jax.Array], TrainState]
    advance: Callable[[TrainState, Inputs, jax.Array, int], TrainState]
    evaluate: Callable[[TrainState, Iterable[EvalBatch]], EvalSums]
    shapes: TrainState
    frozen: Any
    steps_per_epoch: int


def make_trainer(
    config: Config,
    dataset: Dataset,
    mesh: Mesh,
    steps_per_epoch: int,
    *,
    device_loop: bool = False,
    over_seeds: bool = False,
    split_state: bool = False,
) -> Trainer:
    """Builds the functions that train ``config``; each is compiled at first use.

    Args:
      config: configuration of the run.
      dataset: gives class counts and normalisation; the images are passed to
        ``advance``, so that one trainer serves many subsets of equal counts.
      mesh: the devices; each takes an equal share of every batch.
      steps_per_epoch: steps in an epoch.
      device_loop: make many steps as one loop on the device.
      over_seeds: train several seeds at once.
      split_state: split large weights and their optimizer state over the devices.

    Raises:
      UserError: if the configuration cannot be run on these data or devices.
    """
    check_augmentation(config)
    check_head_init(config)
    counts, rows = dataset.class_counts, devices.by_example(mesh)
    model = make_model(config, len(counts), channels=len(dataset.mean))
    tx = make_optimizer(config, counts, steps_per_epoch)
    loss = make_loss(config, counts)
    train_step = make_train_step(config, model, tx, loss, len(counts), steps_per_epoch)

    def start(key):
        return init_state(stream(key, INIT), model, tx, ema=config.ema)

    def step(state, frozen, inputs, key):
        images, labels = jax.lax.with_sharding_constraint(
            inputs.batch(state.step), rows
        )
        augment_key = jax.random.fold_in(stream(key, AUGMENT), state.step)
        images = augment(config, augment_key, images.astype(jnp.float32))
        images = normalised(images, dataset.mean, dataset.std)
        return train_step(state, frozen, images, labels)

    def eval_step(sums, state, frozen, images, labels, real):
        # The training criterion as it was in the last step.
        epoch = jnp.maximum(state.step - 1, 0) // steps_per_epoch
        logits = eval_logits(
            config, model, state.evaluated, frozen, images, dataset.mean, dataset.std
        )
        losses = loss(logits, labels, epoch)
        return add_batch(sums, probabilities(config, logits), losses, labels, real)

    seeds = jax.vmap if over_seeds else lambda function, **_: function
    whole = devices.replicated(mesh)
    shapes = jax.eval_shape(start, jax.random.key(0))
    layout = devices.of_state(shapes, mesh, split=split_state)
    frozen = jax.device_put(
        model.frozen, devices.of_state(model.frozen, mesh, split=split_state)
    )
    compiled = {"donate_argnums": 0, "out_shardings": layout}
    if device_loop:
        many_steps = seeds(_loop(step), in_axes=(0, None, 0, 0, None))
        advance = jax.jit(many_steps, **compiled)
    else:
        one_step = seeds(step, in_axes=(0, None, 0, 0))
        advance = _one_by_one(jax.jit(one_step, **compiled))
    eval_step = seeds(eval_step, in_axes=(0, 0, None, 0, 0, 0))
    eval_step = jax.jit(eval_step, donate_argnums=0, out_shardings=whole)
    nothing = jax.jit(seeds(lambda _: no_sums(len(counts))), out_shardings=whole)
    lay_out = jax.jit(lambda state: state, out_shardings=layout)

    def init(key):
        # Not compiled as a whole, because that takes longer than all the draws.
        state = jax.tree.map(np.asarray, seeds(start)(key))
        return lay_out(with_start(state, config, dataset, model))

    def evaluate(state, batches):
        sums = nothing(state.step)
        for batch in batches:
            sums = eval_step(sums, state, frozen, *batch)
        return sums

    return Trainer(
        init=init,
        advance=lambda state, *rest: advance(state, frozen, *rest),
        evaluate=evaluate,
        shapes=jax.tree.map(
            lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at),
            shapes,
            layout,
        ),
        frozen=frozen,
        steps_per_epoch=steps_per_epoch,
    )


def _loop(step):
    """Returns a device loop of many steps, compiled once for any number of steps."""

    def many_steps(state, frozen, inputs, key, steps):
        return jax.lax.fori_loop(
            0, steps, lambda _, state: step(state, frozen, inputs, key), state
        )

    return many_steps


def _one_by_one(step):
    """Returns a loop of compiled steps, dispatched ahead."""

    def many_steps(state, frozen, inputs, key, steps):
        for _ in range(steps):
            state = step(state, frozen, inputs, key)
        return state

    return many_steps
