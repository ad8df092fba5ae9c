"""Choosing each method's hyper-parameters, on the validation split."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from experiments.comparison.seeds import (
    grouped,
    make_group_trainer,
    run_group,
    seed_dataset,
)
from experiments.config import Config
from experiments.records.manifest import write_json

# Reported seeds count from 0 and never come here.
SEEDS = [1000, 1001, 1002, 1003, 1004]

Candidate = dict[str, float]


def tune(
    configs: dict[str, Config],
    grid: dict[str, list[Candidate]],
    data_dir: Path,
    path: Path,
    report: Callable[[str, Candidate, float], None],
    clock: Callable[[], float],
    *,
    device_loop: bool,
) -> dict[str, Config]:
    """The best candidate of each method by mean accuracy on the validation split.

    Args:
      configs: what each method starts from.
      grid: the candidates of each method: what they change in its configuration.
      data_dir: folder of data sets.
      path: JSON file to write all trials to, as they come in.
      report: called with the method, the candidate and its accuracy.
      clock: tells the time in seconds.
      device_loop: whether epochs are loops on the device, and all seeds train at once.

    Returns:
      The configurations with the best candidate's values.
    """
    chosen, trials = {}, []
    for method, start in configs.items():
        means = []
        for candidate in grid[method]:
            config = start.replace(**candidate)
            accuracy = _validation_accuracy(config, data_dir, clock, device_loop)
            means.append(float(np.mean(accuracy)))
            trials.append(
                {"method": method, "changes": candidate, "validation": accuracy}
            )
            write_json(path, {"seeds": SEEDS, "trials": trials})
            report(method, candidate, means[-1])
        # The first of equals, which sums in floating point could tell apart.
        best = grid[method][int(np.argmax(np.round(means, 9)))]
        chosen[method] = start.replace(**best)
    return chosen


def _validation_accuracy(
    config: Config, data_dir: Path, clock: Callable[[], float], device_loop: bool
) -> list[float]:
    trainer, accuracy = None, []
    for group in grouped(SEEDS, together=device_loop):
        datasets = [seed_dataset(config, seed, data_dir) for seed in group]
        trainer = trainer or make_group_trainer(
            config, datasets, device_loop=device_loop
        )
        outcomes = run_group(config, trainer, group, datasets, "validation", clock)
        accuracy += [outcome.scores["accuracy"] for outcome in outcomes]
    return accuracy
