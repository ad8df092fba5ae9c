"""Training one configuration with several seeds, timed and scored."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import sharding
from experiments.config import Config
from experiments.data.batches import evaluation_batch_size, padded_batches
from experiments.data.dataset import Dataset
from experiments.data.load import load_dataset
from experiments.evaluation import scores
from experiments.trainer import Trainer, make_trainer, scan_is_fast


class Outcome(NamedTuple):
    """What one seed came to after its last epoch.

    Attributes:
      scores: of the part that was asked for.
      step_seconds: median over the epochs of the time of a step, without the first
        epoch, which compiles. With several seeds in one program, its time over theirs.
    """

    scores: dict[str, Any]
    step_seconds: float


def grouped(seeds: list[int]) -> list[list[int]]:
    """The seeds that train in one program: all where that is fast, else one by one."""
    return [seeds] if scan_is_fast() else [[seed] for seed in seeds]


def make_group_trainer(config: Config, dataset: Dataset) -> Trainer:
    """A trainer for :func:`run_group`, on one device; for images held in memory."""
    mesh = sharding.device_mesh(1)
    return make_trainer(config, dataset, mesh, over_seeds=scan_is_fast())


def seed_dataset(config: Config, seed: int, data_dir: Path) -> Dataset:
    """A long-tailed subset of the seed's own, with the same counts for every seed."""
    return load_dataset(config.replace(subset_seed=seed), data_dir)


def run_group(
    config: Config,
    trainer: Trainer,
    seeds: list[int],
    datasets: list[Dataset],
    part: str,
    clock: Callable[[], float],
) -> list[Outcome]:
    """Trains the seeds in one program and scores ``part``, "validation" or "test".

    ``clock`` tells the time in seconds.
    """
    keys = _pack([jax.random.key(seed) for seed in seeds])
    data = jax.device_put(_pack([dataset.train for dataset in datasets]))
    state = trainer.init(keys)
    seconds = []
    for epoch in range(config.epochs):
        began = clock()
        inputs = data, trainer.order(keys, epoch)
        state = trainer.advance(state, inputs, keys, trainer.steps_per_epoch)
        jax.block_until_ready(state)
        seconds.append(clock() - began)
    step_seconds = float(np.median(seconds[1:] or seconds)) / trainer.steps_per_epoch

    splits = [getattr(dataset, part) for dataset in datasets]
    size = evaluation_batch_size(len(splits[0].labels))
    batches = zip(*(padded_batches(split, size) for split in splits), strict=True)
    sums = trainer.evaluate(state, (_pack(list(of_seeds)) for of_seeds in batches))
    counts = datasets[0].class_counts
    return [
        Outcome(scores(own, counts, config), step_seconds / len(seeds))
        for own in _unpack(sums, len(seeds))
    ]


def _pack(trees: list[Any]) -> Any:
    """One tree whose arrays lead with the seeds; a lone seed has no such axis."""
    if not scan_is_fast():
        (tree,) = trees
        return tree
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _unpack(tree: Any, size: int) -> list[Any]:
    """The tree of every seed."""
    if not scan_is_fast():
        return [tree]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(size)]
