"""Image files that lists choose: lines of a path and a class."""

from pathlib import Path

from experiments.data.sources.files import ImageFiles, Splits, validation_and_test
from experiments.errors import UserError

_SPLITS = ("train", "val", "test")


def from_lists(folder: Path) -> Splits:
    """A data set of ``train.txt``, ``test.txt`` and, if there is one, ``val.txt``.

    Names that end so, such as ``ImageNet_LT_train.txt``, will do if there is one of
    each. Paths are absolute or relative to the folder; labels are whole numbers from 0.

    Raises:
      UserError: if a list is missing, cannot be told from another, or is not such a
        list; or if the first image of one is not there.
    """
    if not folder.is_dir():
        raise UserError(f"--data lists:{folder} must name a folder; it is not one.")
    files = {split: _find_list(folder, split) for split in _SPLITS}
    if files["train"] is None:
        raise UserError(
            f"{folder} has no list train.txt, nor one whose name ends in _train.txt."
        )
    splits = {split: _open(folder, file) for split, file in files.items() if file}
    validation, test = validation_and_test(
        splits.get("val"), splits.get("test"), str(folder)
    )
    classes = range(splits["train"].labels.max() + 1)
    return Splits(splits["train"], validation, test, tuple(str(c) for c in classes))


def _find_list(folder: Path, split: str) -> Path | None:
    if (folder / f"{split}.txt").is_file():
        return folder / f"{split}.txt"
    found = sorted(folder.glob(f"*_{split}.txt"))
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UserError(
            f"{folder} has several lists for {split}: {names}. Call the one that is "
            f"meant {split}.txt."
        )
    return found[0] if found else None


def _open(folder: Path, file: Path) -> ImageFiles:
    images = ImageFiles(folder, *read_list(file))
    if not Path(images.name(0)).is_file():
        raise UserError(
            f"{file} begins with an image that is not there: {images.name(0)}. Paths "
            f"in the list are relative to {folder}."
        )
    return images


def read_list(file: Path) -> tuple[list[str], list[int]]:
    """Paths and labels; a path may hold blanks.

    Args:
      file: of lines ``path label``; empty lines are passed over.

    Raises:
      UserError: if a line is not such a line, or there is none.
    """
    paths, labels = [], []
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read: {error}.") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        path, _, label = line.strip().rpartition(" ")
        if not path or not (label.isascii() and label.isdigit()):
            raise UserError(
                f"{file}, line {number}: expected a path, a blank and a class number "
                f"from 0, got {line.strip()!r}."
            )
        paths.append(path.strip())
        labels.append(int(label))
    if not paths:
        raise UserError(f"{file} is empty; expected lines of a path and a class.")
    return paths, labels
