"""Training one configuration with several seeds, timed and scored."""

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Config
from experiments.data.dataset import Dataset
from experiments.data.load import load_dataset
from experiments.evaluation import evaluation_batches, scores
from experiments.metrics import SHOT_THRESHOLDS
from experiments.trainer import Trainer


class Outcome(NamedTuple):
    """What one seed came to after its last epoch.

    Attributes:
      scores: of the part that was asked for.
      step_seconds: median over the epochs of the time of a step, without the first
        epoch, which compiles. With several seeds in one program, its time over theirs.
    """

    scores: dict[str, Any]
    step_seconds: float


def seed_datasets(config: Config, seeds: list[int]) -> list[Dataset]:
    """For every seed a long-tailed subset of its own, with the same counts."""
    return [load_dataset(config.replace(subset_seed=seed)) for seed in seeds]


def run_seed(
    config: Config, trainer: Trainer, seed: int, dataset: Dataset, part: str
) -> Outcome:
    """Trains one seed and scores ``part``, "validation" or "test"."""
    state, step_seconds = _train(
        config, trainer, jax.random.key(seed), jax.device_put(dataset.train)
    )
    split = getattr(dataset, part)
    sums = trainer.evaluate(state, evaluation_batches(split))
    thresholds = SHOT_THRESHOLDS[config.config]
    return Outcome(scores(sums, split, dataset, thresholds), step_seconds)


def run_seeds_at_once(
    config: Config,
    trainer: Trainer,
    seeds: list[int],
    datasets: list[Dataset],
    part: str,
) -> list[Outcome]:
    """The same for all seeds in one program; ``trainer`` must be ``over_seeds``."""
    keys = jax.vmap(jax.random.key)(jnp.array(seeds))
    data = _stack([dataset.train for dataset in datasets])
    state, seconds = _train(config, trainer, keys, jax.device_put(data))
    splits = [getattr(dataset, part) for dataset in datasets]
    sums = trainer.evaluate(state, _stack([evaluation_batches(s) for s in splits]))
    thresholds = SHOT_THRESHOLDS[config.config]
    return [
        Outcome(
            scores(
                jax.tree.map(lambda leaf, i=i: leaf[i], sums),
                splits[i],
                datasets[i],
                thresholds,
            ),
            seconds / len(seeds),
        )
        for i in range(len(seeds))
    ]


def _train(config, trainer, key, data):
    """All epochs; the last state, and the median time of a step."""
    state = trainer.init(key)
    seconds = []
    for epoch in range(config.epochs):
        began = time.perf_counter()
        state, metrics = trainer.run_epoch(state, data, key, epoch)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - began)
    return state, float(np.median(seconds[1:] or seconds)) / trainer.steps_per_epoch


def _stack(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
