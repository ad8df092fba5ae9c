"""Image files named in lists, whose lines hold a path and a class."""

import re
from pathlib import Path

import numpy as np

from experiments.data.sources.files import ImageFiles, Splits, validation_and_test
from experiments.errors import UserError

_SPLITS = ("train", "val", "test")
_ROW = re.compile(r"(?P<path>\S.*?)\s*[\s,]\s*(?P<label>[0-9]+)")
_TITLES = re.compile(r"[A-Za-z_]+\s*[\s,]\s*[A-Za-z_]+")


def from_lists(folder: Path) -> Splits:
    """Reads a data set from the lists ``train.txt``, ``test.txt`` and ``val.txt``.

    One of the last two is enough. Names with a prefix, such as
    ``ImageNet_LT_train.txt``, are accepted if there is one per split. Paths are
    absolute or relative to the folder; labels are integers from 0.

    Raises:
      UserError: if a list is missing, ambiguous or malformed; if a class number has no
        training image; or if the first image of a list does not exist.
    """
    if not folder.is_dir():
        raise UserError(f"--data lists:{folder} must name an existing folder.")
    files = {split: _find_list(folder, split) for split in _SPLITS}
    if files["train"] is None:
        raise UserError(
            f"{folder} has no list train.txt, nor one whose name ends in _train.txt."
        )
    splits = {split: _open(folder, file) for split, file in files.items() if file}
    validation, test = validation_and_test(
        splits.get("val"), splits.get("test"), str(folder)
    )
    labels = set(splits["train"].labels.tolist())
    if max(labels) >= len(labels):
        missing = min(set(range(len(labels))) - labels)
        raise UserError(
            f"{files['train']} has an image of class {max(labels)} but none of class "
            f"{missing}: classes are numbered from 0, and each needs at least one "
            "image."
        )
    classes = range(len(labels))
    return Splits(splits["train"], validation, test, tuple(str(c) for c in classes))


def _find_list(folder: Path, split: str) -> Path | None:
    if (folder / f"{split}.txt").is_file():
        return folder / f"{split}.txt"
    found = sorted(folder.glob(f"*_{split}.txt"))
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UserError(
            f"{folder} has several lists for {split}: {names}. Rename the one to use "
            f"to {split}.txt."
        )
    return found[0] if found else None


def _open(folder: Path, file: Path) -> ImageFiles:
    images = ImageFiles(folder, *read_list(file))
    if not Path(images.name(0)).is_file():
        raise UserError(
            f"the first image of {file}, {images.name(0)}, does not exist: paths in "
            f"the list must be relative to {folder}."
        )
    return images


def read_list(file: Path) -> tuple[list[str], list[int]]:
    """Reads paths and labels from a list; a path may contain spaces.

    Args:
      file: lines of a path and a label, separated by a space, a tab or a comma; empty
        lines, lines that begin with ``#`` and a title line are skipped.

    Raises:
      UserError: if a line is malformed, or there is none.
    """
    paths, labels = [], []
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from None
    rows = [(n, line.strip()) for n, line in enumerate(lines, start=1)]
    rows = [(n, row) for n, row in rows if row and not row.startswith("#")]
    for index, (number, row) in enumerate(rows):
        found = _ROW.fullmatch(row)
        if found is None and index == 0 and _TITLES.fullmatch(row):
            continue
        if found is None or "\0" in row:
            raise UserError(
                f"{file}, line {number}: expected a path, a blank, tab or comma, and a "
                f"class number from 0, got {row!r}."
            )
        label = int(found["label"])
        if label > np.iinfo(np.int32).max:
            raise UserError(
                f"{file}, line {number}: class number {label} is too large."
            )
        paths.append(found["path"])
        labels.append(label)
    if not paths:
        raise UserError(f"{file} is empty; expected lines of a path and a class.")
    return paths, labels
