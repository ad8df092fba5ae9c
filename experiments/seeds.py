"""Training one configuration with several seeds, timed and scored."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Config
from experiments.data.dataset import Dataset
from experiments.data.load import load_dataset
from experiments.evaluation import evaluation_batches, scores
from experiments.metrics import SHOT_THRESHOLDS
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
    """A trainer for :func:`run_group`."""
    return make_trainer(config, dataset, over_seeds=scan_is_fast())


def seed_dataset(config: Config, seed: int) -> Dataset:
    """A long-tailed subset of the seed's own, with the same counts for every seed."""
    return load_dataset(config.replace(subset_seed=seed))


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
        state, metrics = trainer.run_epoch(state, data, keys, epoch)
        jax.block_until_ready(metrics)
        seconds.append(clock() - began)
    step_seconds = float(np.median(seconds[1:] or seconds)) / trainer.steps_per_epoch

    splits = [getattr(dataset, part) for dataset in datasets]
    sums = trainer.evaluate(state, _pack([evaluation_batches(s) for s in splits]))
    thresholds = SHOT_THRESHOLDS[config.config]
    return [
        Outcome(scores(own, split, dataset, thresholds), step_seconds / len(seeds))
        for own, split, dataset in zip(
            _unpack(sums, len(seeds)), splits, datasets, strict=True
        )
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
