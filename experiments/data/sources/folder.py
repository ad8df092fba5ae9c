"""Image files in one folder per class."""

import os
from collections import Counter
from pathlib import Path

import numpy as np

from experiments.data.images.decode import image_endings
from experiments.data.longtail import hold_out
from experiments.data.sources.files import (
    ImageFiles,
    Splits,
    Subset,
    some_of,
    validation_and_test,
)
from experiments.errors import UserError

_TEST_SHARE = 0.2
# Names that the folders of splits may have, in upper or lower case.
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
# Metadata folder in zip archives made by macOS.
_NO_CLASS = "__MACOSX"

# Visible files of every class, relative to the folder of the class, sorted by name.
_Classes = dict[str, list[str]]


def from_folder(folder: Path, subset_seed: int) -> Splits:
    """Reads a data set of files such as ``train/CLASS/*.jpg``.

    Beside ``train`` there is ``test``, or ``val``, or both; other usual names of the
    three are accepted too. If there are only folders of classes, a fifth of every
    class, at least one image of each class with two, becomes the test split. Classes
    are sorted by name. All images in the folder of a class and in its subfolders belong
    to the class. Hidden files and files of other types are left out; the notes count
    the latter.

    Args:
      folder: folder of the splits, or of the classes.
      subset_seed: seed that draws the test split if there is none.

    Raises:
      UserError: if there are no images, a class has no training image, or a class of
        another split is not in the training split.
    """
    if not folder.is_dir():
        raise UserError(f"--data folder:{folder} must name an existing folder.")
    parts = {split: _split_folder(folder, split) for split in _SPLITS}
    if parts["train"] is None:
        if parts["test"] or parts["validation"]:
            raise UserError(
                f"{folder} has a split for evaluation, but no folder train."
            )
        return _divide(folder, subset_seed)
    found = {part: _files_by_class(part) for part in parts.values() if part}
    classes = _to_learn(parts["train"], found[parts["train"]])
    train, validation, test = (
        part and _images(part, found[part], classes) for part in parts.values()
    )
    validation, test = validation_and_test(validation, test, str(folder))
    names = tuple(map(readable, classes))
    return Splits(train, validation, test, names, notes=_left_out(found))


def _divide(folder: Path, subset_seed: int) -> Splits:
    found = _files_by_class(folder)
    classes = _to_learn(folder, found)
    images = _images(folder, found, classes)
    # A random stream separate from the one that draws the held-out validation split.
    rng = np.random.default_rng([subset_seed, 1])
    stays, tested = hold_out(images.labels, _TEST_SHARE, rng)
    if not len(tested):
        raise UserError(
            f"{folder} has only one image per class, so none is left for testing: add "
            "images, or folders train and test."
        )
    drawn = f"{len(tested)} of {len(images)} images, a fifth of every class, are drawn "
    return Splits(
        Subset(images, stays),
        None,
        Subset(images, tested),
        tuple(map(readable, classes)),
        notes=(drawn + "for the test split.", *_left_out({folder: found})),
    )


def _split_folder(folder: Path, split: str) -> Path | None:
    names = [n for n in _folders_in(folder) if n.lower() in _SPLITS[split]]
    if len(names) > 1:
        raise UserError(f"{folder} has both {' and '.join(names)}; keep one of them.")
    return folder / names[0] if names else None


def _to_learn(folder: Path, found: _Classes) -> tuple[str, ...]:
    """Returns the names of the classes; each must have images."""
    if not found:
        raise UserError(
            f"{folder} contains no folders of images; expected one folder per class."
        )
    for name, files in found.items():
        if not any(map(_is_image, files)):
            raise UserError(
                f"{folder / name} contains no images ({', '.join(image_endings())}): "
                "every class needs training images; add some, or remove the folder."
            )
    return tuple(found)


def _images(folder: Path, found: _Classes, classes: tuple[str, ...]) -> ImageFiles:
    label_of = {name: label for label, name in enumerate(classes)}
    paths, labels = [], []
    for name, files in found.items():
        images = [file for file in files if _is_image(file)]
        if not images:
            continue
        if name not in label_of:
            raise UserError(
                f"{folder / name} is a class that the training split lacks; its "
                f"classes are {some_of(classes)}."
            )
        paths += [f"{name}/{image}" for image in images]
        labels += [label_of[name]] * len(images)
    if not paths:
        raise UserError(f"{folder} contains no images; expected one folder per class.")
    return ImageFiles(folder, paths, labels)


def _left_out(found: dict[Path, _Classes]) -> tuple[str, ...]:
    """Returns a note that counts the files left out, if there are any."""
    files = [f for part in found.values() for files in part.values() for f in files]
    kinds = Counter(_kind(file) for file in files if not _is_image(file))
    beside = [f for part in found for f in _list(part)[1] if _is_image(f)]
    if beside:
        kinds["outside the class folders"] = len(beside)
    if not kinds:
        return ()
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return (f"Left out, because they are not images of a class: {counted}.",)


def readable(name: str) -> str:
    """Returns the name of a folder; bytes that are not valid UTF-8 become escapes."""
    return name.encode(errors="backslashreplace").decode()


def images_below(folder: Path) -> tuple[list[str], list[str]]:
    """Lists the images and the other files in a folder and its subfolders.

    Returns:
      Both lists, relative to the folder, without hidden files.

    Raises:
      UserError: if a folder cannot be read.
    """
    files = _files_below(folder)
    images = [file for file in files if _is_image(file)]
    return images, [file for file in files if not _is_image(file)]


def _kind(file: str) -> str:
    return os.path.splitext(file)[1].lower() or "without an extension"


def _is_image(file: str) -> bool:
    return file.lower().endswith(image_endings())


def _files_by_class(folder: Path) -> _Classes:
    return {name: _files_below(folder / name) for name in _folders_in(folder)}


def _files_below(folder: Path) -> list[str]:
    """Lists the files in a folder and its subfolders, relative to the folder."""
    folders, files = _list(folder)
    below = [f"{name}/{f}" for name in folders for f in _files_below(folder / name)]
    return files + below


def _folders_in(folder: Path) -> list[str]:
    return _list(folder)[0]


def _list(folder: Path) -> tuple[list[str], list[str]]:
    """Lists the visible subfolders and the visible files of a folder, by name."""
    try:
        with os.scandir(folder) as entries:
            kinds = sorted((entry.name, entry.is_dir()) for entry in entries)
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}.") from None
    seen = [(n, d) for n, d in kinds if not n.startswith(".") and n != _NO_CLASS]
    return [n for n, is_dir in seen if is_dir], [n for n, is_dir in seen if not is_dir]
