"""The runs of a comparison on disk: each a folder as experiments.train leaves it."""

import os
import shutil
from pathlib import Path
from typing import Any

import jax

from experiments.comparison.seeds import Outcome
from experiments.config import Config
from experiments.data.dataset import Dataset
from experiments.records.manifest import Sizes, create_run, describe_run
from experiments.records.rows import MetricsFile
from experiments.training.checkpoint import Best, Checkpoints

RUNS = "runs"


def run_folder(comparison: Path, row: str, seed: int) -> Path:
    """Where a seed of a row is kept, once it is finished."""
    return comparison / RUNS / f"{row.replace(', ', '-').replace(' ', '-')}-seed{seed}"


def save_run(
    folder: Path,
    config: Config,
    dataset: Dataset,
    frozen: Any,
    outcome: Outcome,
    command: list[str],
) -> None:
    """Writes manifest, metrics and last checkpoint; the folder is there whole or not.

    Args:
      folder: of the run, which is not there yet.
      config: of the run, with its seeds.
      dataset: of the run.
      frozen: the weights that training left as they were.
      outcome: what it came to on the test set.
      command: that was given.
    """
    unfinished = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(unfinished, ignore_errors=True)
    state, last = outcome.state, outcome.rows[-1]
    sizes = Sizes.of(state.params, frozen)
    create_run(unfinished, describe_run(config, dataset, sizes, command))
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
