"""The runs of a comparison on disk, in the folder format of experiments.train."""

import os
import shutil
from pathlib import Path
from typing import Any

import jax

from experiments.comparison.seeds import Outcome
from experiments.config import Config
from experiments.data.dataset import Dataset
from experiments.records.manifest import RUNS, create_run, describe_run
from experiments.records.rows import MetricsFile
from experiments.training.checkpoint import Best, Checkpoints


def run_folder(comparison: Path, row: str, seed: int) -> Path:
    """Returns the folder of the finished run of a row and seed."""
    return comparison / RUNS / f"{row.replace(', ', '-').replace(' ', '-')}-seed{seed}"


def save_run(
    folder: Path,
    config: Config,
    dataset: Dataset,
    frozen: Any,
    outcome: Outcome,
    command: list[str],
) -> None:
    """Writes manifest, metrics and last checkpoint, all or nothing.

    Args:
      folder: folder of the run, which does not exist yet.
      config: configuration of the run, with its seeds.
      dataset: data set of the run.
      frozen: weights that training did not change.
      outcome: outcome on the test set.
      command: command line.
    """
    unfinished = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    state, last = outcome.state, outcome.rows[-1]
    about = describe_run(config, dataset, state.params, frozen, command)
    create_run(unfinished, about)
    shapes = jax.eval_shape(lambda tree: tree, state)
    checkpoints = Checkpoints(unfinished, config, shapes)
    checkpoints.save(last["step"], state, Best())
    checkpoints.close()
    metrics = MetricsFile(unfinished, keep_until_step=last["step"])
    for row in outcome.rows:
        metrics.append(row)
    which = {"split": "test", "which": "last"}
    place = {name: last[name] for name in ("epoch", "step")}
    metrics.append({**which, **place, **outcome.scores})
    os.replace(unfinished, folder)
