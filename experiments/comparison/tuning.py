"""Choosing each method's hyper-parameters, on the validation split."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.comparison.seeds import (
    grouped,
    make_group_trainer,
    run_group,
    seed_dataset,
)
from experiments.config import Config
from experiments.records.manifest import read_json, write_json

# Reported seeds count from 0 and never come here.
SEEDS = [1000, 1001, 1002, 1003, 1004]

Candidate = dict[str, float]


def tune(
    configs: dict[str, Config],
    grid: Mapping[str, list[Candidate]],
    seeds: Sequence[int],
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
      seeds: that every candidate is trained with.
      data_dir: folder of data sets.
      path: JSON file to write all trials to, as they come in. Those that are there
        already are not made again.
      report: called with the method, the candidate and its accuracy.
      clock: tells the time in seconds.
      device_loop: whether epochs are loops on the device, and all seeds train at once.

    Returns:
      The configurations with the best candidate's values.
    """
    trials: list[dict[str, Any]] = read_json(path)["trials"] if path.exists() else []
    chosen = {}
    for method, start in configs.items():
        means = []
        for candidate in grid[method]:
            known = {"method": method, "changes": candidate, "seeds": list(seeds)}
            made = [trial for trial in trials if known.items() <= trial.items()]
            if not made:
                config = start.replace(**candidate)
                accuracy = _validation_accuracy(
                    config, seeds, data_dir, clock, device_loop
                )
                made = [{**known, "validation": accuracy}]
                trials += made
                write_json(path, {"trials": trials})
            means.append(float(np.mean(made[0]["validation"])))
            report(method, candidate, means[-1])
        # The first of equals, which sums in floating point could tell apart.
        best = grid[method][int(np.argmax(np.round(means, 9)))]
        chosen[method] = start.replace(**best)
    return chosen


def _validation_accuracy(
    config: Config,
    seeds: Sequence[int],
    data_dir: Path,
    clock: Callable[[], float],
    device_loop: bool,
) -> list[float]:
    trainer, accuracy = None, []
    for group in grouped(list(seeds), together=device_loop):
        datasets = [seed_dataset(config, seed, data_dir) for seed in group]
        trainer = trainer or make_group_trainer(
            config, datasets, device_loop=device_loop
        )
        outcomes = run_group(config, trainer, group, datasets, "validation", clock)
        accuracy += [outcome.scores["accuracy"] for outcome in outcomes]
    return accuracy
