"""The description of a run: manifest.json in the folder of the run."""

import dataclasses
import json
import math
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.config import Config
from experiments.data.dataset import Dataset
from experiments.data.sources.files import some_of
from experiments.errors import UserError
from experiments.records.folders import make_folder

MANIFEST, METRICS = "manifest.json", "metrics.jsonl"
CHECKPOINTS = "checkpoints"
RUNS = "runs"  # the runs of a comparison, in its folder
_PACKAGES = ("jax", "jaxlib", "optax", "flax", "numpy", "scikit-learn")
_DATA_PACKAGES = ("grain", "tensorflow-datasets", "pillow")
# Removed options, each with the value at which it had no effect.
_GONE = {"five_crops": False, "randaugment": 0, "cutout": 0, "mixup": 0.0}
_GONE |= {"bottleneck": None}


# Options that may change when a run is resumed, such as rates, radii, schedules, length
# and the intervals of evaluation.
_MAY_CHANGE = {
    "epochs",
    "learning_rate",
    "warmup",
    "milestones",
    "decay",
    "weight_decay",
    "drw_start",
    "rho",
    "rho_schedule",
    "rho_start",
    "rho_milestones",
    "rho_values",
    "head_rho",
    "switch_epoch",
    "eval_every",
    "sharpness_every",
    "checkpoint_every",
    "max_skipped",
}


def describe_run(
    config: Config, dataset: Dataset, params: Any, frozen: Any, command: list[str]
) -> dict[str, Any]:
    """Returns everything needed to repeat a run, as JSON.

    ``params`` and ``frozen`` are pytrees of arrays, or of their shapes.
    """
    return {
        "config": as_json(config),
        "seeds": {"training": config.seed, "subset": config.subset_seed},
        "class_counts": [int(n) for n in dataset.class_counts],
        "class_names": list(dataset.class_names),
        "pixel_mean": np.asarray(dataset.mean, float).tolist(),
        "pixel_std": np.asarray(dataset.std, float).tolist(),
        "notes": list(dataset.notes),
        "train_hash": dataset.train_hash,
        "examples": {
            "train": len(dataset.train.labels),
            "validation": 0
            if dataset.validation is None
            else len(dataset.validation.labels),
            "test": len(dataset.test.labels),
        },
        "parameters": _size(params),
        "frozen_parameters": _size(frozen),
        **describe_machine(command),
    }


def describe_machine(command: list[str]) -> dict[str, Any]:
    """Returns versions, git commit, device and command line."""
    device = jax.devices()[0]
    return {
        "versions": {
            "python": platform.python_version(),
            **{
                package: _version(package)
                for package in ("focal_sam_jax", *_PACKAGES, *_DATA_PACKAGES)
            },
        },
        "git_commit": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
        "device": {
            "backend": jax.default_backend(),
            "kind": device.device_kind,
            "count": jax.device_count(),
            "hosts": jax.process_count(),
            "platform": platform.platform(),
        },
        "command": command,
    }


def create_run(run_dir: Path, manifest: dict[str, Any]) -> None:
    """Creates the folder and writes the manifest; fails if it already holds a run."""
    if any((run_dir / part).exists() for part in (MANIFEST, METRICS, CHECKPOINTS)):
        raise UserError(
            f"{run_dir} already contains a run, and nothing is overwritten: pass "
            "another --run-dir, or continue the run with --resume, which needs its "
            f"{MANIFEST}."
        )
    make_folder(run_dir, "--run-dir")
    write_json(run_dir / MANIFEST, manifest)


def write_json(path: Path, content: Any) -> None:
    """Writes a JSON file atomically: a reader never sees half a file."""
    unfinished = path.with_suffix(path.suffix + ".tmp")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    unfinished.replace(path)


def read_manifest(run_dir: Path) -> dict[str, Any]:
    """Reads the manifest of a run.

    Raises:
      UserError: if there is none, or it is damaged.
    """
    path = run_dir / MANIFEST
    if not path.exists():
        raise UserError(f"{run_dir} contains no run: there is no {MANIFEST} in it.")
    return read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a file of :func:`write_json`.

    Raises:
      UserError: if it is damaged.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}.") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} must contain a JSON object: the file is damaged.")
    return content


def as_json(config: Config) -> dict[str, Any]:
    """Converts a configuration to JSON types: tuples become lists."""
    fields = dataclasses.asdict(config)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}


def complete(saved: dict[str, Any]) -> dict[str, Any]:
    """Adapts a saved configuration to the fields of :class:`Config`.

    Missing options get their default. A removed option is left out if it had no effect.
    """
    now = as_json(Config()) | saved
    return {k: v for k, v in now.items() if k not in _GONE or v != _GONE[k]}


def config_of(manifest: dict[str, Any]) -> Config:
    """Returns the configuration of a run from its manifest.

    Raises:
      UserError: if the run has options that this program lacks.
    """
    saved = complete(manifest["config"])
    if unknown := saved.keys() - as_json(Config()).keys():
        options = ", ".join(f"{name} {saved[name]}" for name in sorted(unknown))
        raise UserError(
            f"the run has options that this version of the program lacks ({options}): "
            f"read it with the version of commit {manifest.get('git_commit')}."
        )
    return Config(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
    )


def pixel_statistics(manifest: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of each channel, for normalisation.

    Raises:
      UserError: if the manifest lacks them, as those of earlier versions do.
    """
    if "pixel_mean" not in manifest:
        raise UserError(
            "the run's manifest, from an earlier version, does not say how its pixels "
            "were normalised: train it again."
        )
    mean, std = (manifest[name] for name in ("pixel_mean", "pixel_std"))
    return np.array(mean, np.float64), np.array(std, np.float64)


def changed_options(saved: dict[str, Any], config: Config) -> dict[str, list[Any]]:
    """Returns the options that differ from the saved ones, as ``[saved, new]``.

    Raises:
      UserError: if one of them may not change when a run is resumed.
    """
    then, now = complete(saved), as_json(config)
    changed = {
        name: [then.get(name), now.get(name)]
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    }
    fixed = [
        f"{name}: {before} then, {after} now"
        for name, (before, after) in changed.items()
        if name not in _MAY_CHANGE
    ]
    if fixed:
        raise UserError(
            f"cannot resume with another configuration ({'; '.join(fixed)}): "
            "pass the same options again, or another --run-dir. Rates, radii, their "
            "schedules and --epochs may change."
        )
    return changed


def record_changes(
    run_dir: Path, config: Config, step: int, changed: dict[str, list[Any]]
) -> None:
    """Records in the manifest which options changed at ``step`` of a resumed run.

    At step 0 only the configuration is replaced, since it holds for the whole run.
    """
    manifest = read_manifest(run_dir)
    manifest["config"] = as_json(config)
    if step:
        manifest.setdefault("changes", []).append({"step": step, "options": changed})
    write_json(run_dir / MANIFEST, manifest)


def check_same_data(manifest: dict[str, Any], dataset: Dataset) -> None:
    """Raises a ``UserError`` if a run was trained on other images than these."""
    then, now = manifest["class_names"], list(dataset.class_names)
    counts = zip(manifest["class_counts"], map(int, dataset.class_counts), strict=False)
    others = [
        f"class {name} had {before} images and has {after}"
        for name, (before, after) in zip(now, counts, strict=False)
        if before != after
    ]
    what = ""
    if set(then) != set(now):
        gone, new = (
            some_of(sorted(a - b)) or "none"
            for a, b in ((set(then), set(now)), (set(now), set(then)))
        )
        what = f"missing classes: {gone}; new classes: {new}"
    elif then != now:
        what = "the classes are in another order"
    elif others:
        what = some_of(others)
    elif manifest.get("train_hash", dataset.train_hash) != dataset.train_hash:
        what = "images have other names, sizes, classes or another order"
    if what:
        raise UserError(
            f"the training images differ from those that the run began with ({what}): "
            "pass those, or train on these in another --run-dir."
        )


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _git(*arguments: str) -> str | None:
    """Runs git in the folder of this file; returns ``None`` if git fails."""
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
