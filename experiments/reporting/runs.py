"""Finished runs, read back from their folders."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.errors import UserError
from experiments.records.manifest import MANIFEST, RUNS, complete, read_manifest
from experiments.records.rows import read_metrics


class FinishedRun(NamedTuple):
    """The records of a finished run of experiments.train.

    Attributes:
      folder: folder of the run.
      config: configuration, as JSON, with the fields of this version.
      class_counts: training examples of each class, int, ``(num_classes,)``.
      class_names: names of the classes, in label order.
      rows: rows of the metrics.
      tests: results on the test set, by state: "last", and "best" on the validation
        split, if there is one.
    """

    folder: Path
    config: dict[str, Any]
    class_counts: np.ndarray
    class_names: list[str]
    rows: list[dict[str, Any]]
    tests: dict[str, dict[str, Any]]

    @property
    def seeds(self) -> tuple[int, int]:
        """Seeds of training and of the subset; runs with equal seeds are paired."""
        return self.config["seed"], self.config["subset_seed"]


def find_runs(paths: Iterable[Path]) -> tuple[list[FinishedRun], dict[Path, str]]:
    """Returns the finished runs in folders, and the folders left out, with reasons.

    Args:
      paths: folders of runs or of comparisons, or folders that hold folders of runs.

    Raises:
      UserError: if no folder holds a run, or a file of a run cannot be read.
    """
    runs, left_out, folders = [], {}, {}
    for path in paths:
        found = _run_folders(path)
        if not found:
            left_out[path] = "contains no run"
        folders |= {folder.resolve(): folder for folder in found}
    if not folders:
        raise UserError(
            f"{', '.join(map(str, left_out))} contains no run: pass the --run-dir of a "
            "run of experiments.train, or a folder of such folders."
        )
    for folder in folders.values():
        manifest = read_manifest(folder)
        if not {"config", "class_counts", "class_names"} <= manifest.keys():
            left_out[folder] = "not a run of experiments.train"
            continue
        rows = read_metrics(folder)
        tests = {row["which"]: row for row in rows if row["split"] == "test"}
        if "last" not in tests:
            left_out[folder] = "not finished: continue it with --resume"
            continue
        counts = np.array(manifest["class_counts"])
        config = complete(manifest["config"])
        if changes := manifest.get("changes"):
            # So it is not grouped with a run that had these options from the start.
            config["options changed at steps"] = [change["step"] for change in changes]
        names = manifest["class_names"]
        runs.append(FinishedRun(folder, config, counts, names, rows, tests))
    return runs, left_out


def step_seconds(rows: list[dict[str, Any]]) -> float:
    """Returns the median step time over epochs, without the first, which compiles.

    An epoch in which the run stopped and resumed appears too short; the median hardly
    changes.
    """
    train = [row for row in rows if row["split"] == "train"]
    times = [row["seconds"] / (row["step"] / row["epoch"]) for row in train]
    return float(np.median(times[1:] or times))


def _run_folders(path: Path) -> list[Path]:
    """Returns the folder itself, or the runs in it or in its comparison."""
    if (path / MANIFEST).exists():
        if not (path / RUNS).is_dir():
            return [path]
        path /= RUNS
    return sorted(manifest.parent for manifest in path.glob(f"*/{MANIFEST}"))
