"""A program, compiled for the devices at hand.

The state is donated from step to step, nothing is compiled twice, and the host waits
for nothing inside :attr:`Trainer.advance`.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from experiments import sharding
from experiments.config import Config
from experiments.data.augment import check_augmentation
from experiments.data.batches import batches_per_epoch, fitting_batch_size
from experiments.data.dataset import Dataset
from experiments.head_start import check_head_start, with_head_start
from experiments.program import make_program
from experiments.step import EvalSums, TrainState, no_sums


class Trainer(NamedTuple):
    """What a run is made of; with ``over_seeds`` all arrays lead with a seed axis.

    Attributes:
      init: ``key -> state``; the key is one of this process alone.
      order: ``(key, epoch) -> order``, which rows of a set in memory make the batches
        of an epoch.
      advance: ``(state, inputs, key, steps) -> state`` makes so many steps of one
        epoch. ``inputs`` are ``(split, order)`` for a set in memory, and ``(images,
        labels)`` of a single step for a streamed one. It consumes the state.
      evaluate: ``(state, batches) -> sums`` over ``(images, labels, real)``.
      shapes: of the state, each with its sharding.
      frozen: weights that training leaves as they are.
      steps_per_epoch: updates in an epoch.
      batch_size: examples in a step, over all devices.
    """

    init: Callable[[jax.Array], TrainState]
    order: Callable[[jax.Array, jax.typing.ArrayLike], jax.Array]
    advance: Callable[[TrainState, Any, jax.Array, int], TrainState]
    evaluate: Callable[[TrainState, Iterable[Any]], EvalSums]
    shapes: TrainState
    frozen: Any
    steps_per_epoch: int
    batch_size: int


def scan_is_fast() -> bool:
    """Whether many steps should be one device loop, and many seeds one ``vmap``.

    On GPU and TPU they should. XLA's CPU backend runs convolutions inside a loop, or
    with a batch of kernels, many times slower than one after the other.
    """
    return jax.default_backend() != "cpu"


def make_trainer(
    config: Config,
    dataset: Dataset,
    mesh: Mesh,
    *,
    over_seeds: bool = False,
    split_state: bool = False,
) -> Trainer:
    """Builds and compiles, lazily, what trains ``config`` on data of that shape.

    Args:
      config: the run.
      dataset: gives sizes, class counts and normalisation; the images are passed to
        ``advance``, so that one trainer serves many subsets of equal counts.
      mesh: the devices; each takes an equal part of every batch.
      over_seeds: train several seeds at once.
      split_state: split large weights and their optimizer state over the devices.

    Raises:
      UserError: if the configuration cannot be run on these data or devices.
    """
    check_augmentation(config)
    check_head_start(config)
    sharding.check_batch_size(config.batch_size, mesh)
    size, num_classes = len(dataset.train.labels), len(dataset.class_counts)
    batch_size = fitting_batch_size(size, config.batch_size, mesh.size)
    steps_per_epoch = batches_per_epoch(size, batch_size)
    program = make_program(
        config, dataset, batch_size, steps_per_epoch, sharding.by_example(mesh)
    )
    seeds = jax.vmap if over_seeds else lambda function, **_: function
    order = seeds(program.order, in_axes=(0, None))
    look = seeds(program.look, in_axes=(0, 0, None, 0, 0, 0))

    whole = sharding.replicated(mesh)
    shapes = jax.eval_shape(program.init, jax.random.key(0))
    layout = sharding.of_state(shapes, mesh, split=split_state)
    compiled = {"donate_argnums": 0, "out_shardings": layout}
    if not config.in_memory:
        advance = _one_by_one(jax.jit(program.step, **compiled))
    elif over_seeds or scan_is_fast():
        in_axes = (0, None, 0, 0, None)
        advance = jax.jit(
            seeds(_loop(program.step_in_memory), in_axes=in_axes), **compiled
        )
    else:
        advance = _one_by_one(jax.jit(program.step_in_memory, **compiled))
    frozen = jax.device_put(
        program.frozen, sharding.of_state(program.frozen, mesh, split=split_state)
    )

    lay_out = jax.jit(lambda state: state, out_shardings=layout)

    def init(key):
        # Not compiled as a whole, which takes longer than all the draws.
        state = jax.tree.map(np.asarray, seeds(program.init)(key))
        return lay_out(with_head_start(state, config, dataset))

    look = jax.jit(look, donate_argnums=0, out_shardings=whole)
    nothing = jax.jit(seeds(lambda _: no_sums(num_classes)), out_shardings=whole)

    def evaluate(state, batches):
        sums = nothing(state.step)
        for batch in batches:
            sums = look(sums, state, frozen, *batch)
        return sums

    return Trainer(
        init=init,
        order=jax.jit(order, out_shardings=whole),
        advance=lambda state, *rest: advance(state, frozen, *rest),
        evaluate=evaluate,
        shapes=sharding.with_sharding(shapes, layout),
        frozen=frozen,
        steps_per_epoch=steps_per_epoch,
        batch_size=batch_size,
    )


def _loop(step):
    """Many steps as one loop on the device, whose length compiles nothing anew."""

    def many_steps(state, frozen, inputs, key, steps):
        return jax.lax.fori_loop(
            0, steps, lambda _, state: step(state, frozen, inputs, key), state
        )

    return many_steps


def _one_by_one(step):
    """Many steps as a loop of compiled ones, dispatched ahead."""

    def many_steps(state, frozen, inputs, key, steps):
        for _ in range(steps):
            state = step(state, frozen, inputs, key)
        return state

    return many_steps
