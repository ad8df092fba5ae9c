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

# Seeds for tuning only; reported seeds are smaller.
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
    """Chooses each method's candidate with the best mean validation accuracy.

    Args:
      configs: initial configuration of each method.
      grid: candidates of each method: changes to its configuration.
      seeds: seeds of every candidate.
      data_dir: folder of data sets.
      path: JSON file for all trials, written after each. Trials already in it are not
        repeated.
      report: called with the method, the candidate and its accuracy.
      clock: function that returns the time in seconds.
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
        # Rounded, because equal means may differ in floating point; the first wins.
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
