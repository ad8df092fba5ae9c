"""Paths of data sets that TFDS prepared; TFDS itself is not needed."""

import difflib
import re
import shlex
from pathlib import Path

from experiments.errors import UserError

# TFDS's name and version for each name of --data.
TFDS_NAMES = {
    "fashion_mnist": "fashion_mnist:3.0.1",
    "cifar10": "cifar10:3.0.2",
    "cifar100": "cifar100:3.0.2",
    "imagenet_lt": "imagenet_lt:1.0.0",
    "inaturalist18": "i_naturalist2018:1.0.0",
    "places_lt": "places365_small:2.1.0",
}

# Files that TFDS cannot download; they belong in data_dir/downloads/manual.
IMAGENET_ARCHIVES = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar")

# The lists that select Places-LT from Places365; they belong in data_dir/places_lt.
PLACES_FOLDER = "places_lt"
PLACES_LISTS = ("Places_LT_train.txt", "Places_LT_val.txt", "Places_LT_test.txt")

_VERSION = re.compile(r"\d+\.\d+\.\d+")


def tfds_name(data: str) -> str:
    """Returns TFDS's name for a value of ``--data``.

    Args:
      data: a key of ``TFDS_NAMES``, or ``tfds:`` followed by a name of TFDS.

    Returns:
      The name, with optional configuration and version: ``name/config:1.0.0``.
    """
    return TFDS_NAMES.get(data) or data.removeprefix("tfds:")


def find_prepared(data_dir: Path, data: str) -> Path | None:
    """Returns the folder with the records of a data set, or ``None``.

    If no version is named, the newest is taken; if no configuration, the only one.

    Raises:
      UserError: if no configuration is named and there are several.
    """
    name, _, version = tfds_name(data).partition(":")
    folder = data_dir / name
    if version:
        return folder / version if _is_prepared(folder / version) else None
    if newest := _newest(folder):
        return newest
    configurations = [found for child in _children(folder) if (found := _newest(child))]
    if len(configurations) > 1:
        names = ", ".join(f"{name}/{found.parent.name}" for found in configurations)
        raise UserError(
            f"{folder} contains several configurations: pass --data tfds: and one of "
            f"{names}."
        )
    return configurations[0] if configurations else None


def _newest(folder: Path) -> Path | None:
    versions = [
        child
        for child in _children(folder)
        if _VERSION.fullmatch(child.name) and _is_prepared(child)
    ]
    return max(versions, default=None, key=_version_number)


def _version_number(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in folder.name.split("."))


def _children(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_prepared(folder: Path) -> bool:
    """Returns whether TFDS finished; it moves the folder here only at the end."""
    return (folder / "dataset_info.json").is_file()


def require_prepared(data_dir: Path, data: str) -> Path:
    """Returns the folder with the records of a data set.

    Raises:
      UserError: if it does not exist; the message has the expected path and the command
        that prepares it.
    """
    if found := find_prepared(data_dir, data):
        return found
    name, _, version = tfds_name(data).partition(":")
    folder = data_dir / name / version
    command = (
        f"python -m experiments.prepare {shlex.quote(data)} "
        f"--data-dir {shlex.quote(str(data_dir))}"
    )
    by_hand = ""
    if name == "imagenet_lt":
        manual = data_dir / "downloads" / "manual"
        by_hand = f", after you put {' and '.join(IMAGENET_ARCHIVES)} into {manual}"
    elif name == "fashion_mnist":
        by_hand = f", or put its four IDX files into {data_dir / name}"
    near = ""
    if data not in TFDS_NAMES:
        there = [child.name for child in _children(data_dir)]
        names = difflib.get_close_matches(name.partition("/")[0], there)
        near = f" ({data_dir} has {', '.join(names)})" if names else ""
    raise UserError(
        f"{data} is not in {folder}{near}: prepare it with `{command}`{by_hand}; or "
        "point --data-dir to the folder that has it."
    )
