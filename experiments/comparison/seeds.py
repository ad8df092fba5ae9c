"""Training one configuration with several seeds, timed and scored."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from experiments import devices
from experiments.config import Config
from experiments.data.batches import (
    epoch_sizes,
    eval_batch_size,
    padded_batches,
    shuffled_batches,
)
from experiments.data.dataset import Dataset
from experiments.data.feed import EpochInMemory
from experiments.data.load import load_dataset
from experiments.training.evaluate import scores
from experiments.training.loop import epoch_numbers
from experiments.training.step import TrainState
from experiments.training.trainer import Trainer, make_trainer


class Outcome(NamedTuple):
    """The result of one seed after its last epoch.

    Attributes:
      scores: scores on the chosen split.
      rows: metrics of its epochs. If several seeds train in one program, each has an
        equal share of the time.
      state: final training state.
    """

    scores: dict[str, Any]
    rows: list[dict[str, Any]]
    state: TrainState


def grouped(seeds: list[int], together: bool) -> list[list[int]]:
    """Returns groups of seeds that train in one program: all, or each alone."""
    return [seeds] if together else [[seed] for seed in seeds]


def make_group_trainer(
    config: Config, datasets: list[Dataset], *, device_loop: bool
) -> Trainer:
    """Returns a trainer for :func:`run_group`: one device, images in memory."""
    _, steps_per_epoch = _sizes(config, datasets)
    return make_trainer(
        config,
        datasets[0],
        devices.device_mesh(1),
        steps_per_epoch,
        device_loop=device_loop,
        over_seeds=len(datasets) > 1,
    )


def seed_dataset(config: Config, seed: int, data_dir: Path) -> Dataset:
    """Loads the long-tailed subset of a seed; all seeds have the same class counts."""
    return load_dataset(config.replace(subset_seed=seed), data_dir)


def run_group(
    config: Config,
    trainer: Trainer,
    seeds: list[int],
    datasets: list[Dataset],
    split: str,
    clock: Callable[[], float],
) -> list[Outcome]:
    """Trains the seeds in one program and scores "validation" or "test".

    ``clock`` returns the time in seconds.
    """
    keys = _pack([jax.random.key(seed) for seed in seeds])
    data = jax.device_put(_pack([dataset.train for dataset in datasets]))
    batch_size, steps = _sizes(config, datasets)

    def order(key, epoch):
        return shuffled_batches(key, epoch, len(datasets[0].train.labels), batch_size)

    order = jax.jit(order if len(seeds) == 1 else jax.vmap(order, in_axes=(0, None)))
    state = trainer.init(keys)
    rows: list[list[dict[str, Any]]] = [[] for _ in seeds]
    for epoch in range(1, config.epochs + 1):
        began = clock()
        inputs = EpochInMemory(data, order(keys, epoch - 1))
        state = trainer.advance(state, inputs, keys, steps)
        jax.block_until_ready(state)
        seconds = (clock() - began) / len(seeds)
        # Without the large arrays, whose memory the next epoch reuses.
        light = state._replace(params=(), batch_stats=(), opt_state=(), average=())
        for of_seed, own in zip(rows, _unpack(light, len(seeds)), strict=True):
            numbers = epoch_numbers(config, steps, own, seconds)
            row = {"split": "train", "epoch": epoch, "step": epoch * steps}
            of_seed.append({**row, **numbers})

    splits = [getattr(dataset, split) for dataset in datasets]
    size = eval_batch_size(len(splits[0].labels))
    batches = zip(*(padded_batches(of_seed, size) for of_seed in splits), strict=True)
    sums = trainer.evaluate(state, (_pack(list(of_seeds)) for of_seeds in batches))
    counts = datasets[0].class_counts
    return [
        Outcome(scores(of_seed, counts, config), its_rows, its_state)
        for of_seed, its_rows, its_state in zip(
            _unpack(sums, len(seeds)), rows, _unpack(state, len(seeds)), strict=True
        )
    ]


def _sizes(config: Config, datasets: list[Dataset]) -> tuple[int, int]:
    return epoch_sizes(len(datasets[0].train.labels), config.batch_size, devices=1)


def _pack(trees: list[Any]) -> Any:
    """Stacks trees along a first axis of seeds; a single seed has no such axis."""
    if len(trees) == 1:
        return trees[0]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _unpack(tree: Any, size: int) -> list[Any]:
    """Returns the tree of every seed."""
    if size == 1:
        return [tree]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(size)]
