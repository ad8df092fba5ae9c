"""Image files in one folder a class."""

import os
from pathlib import Path

import numpy as np

from experiments.data.longtail import hold_out
from experiments.data.sources.files import (
    ImageFiles,
    Splits,
    Subset,
    validation_and_test,
)
from experiments.errors import UserError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")

_TEST_SHARE = 0.2
_VALIDATION_NAMES = ("val", "validation")


def from_folder(folder: Path, subset_seed: int) -> Splits:
    """A data set of ``train/CLASS/*.jpg`` and the like.

    Beside ``train`` there is ``test``, or ``val`` (or ``validation``), or both. Or
    there are folders of classes only: then a fifth of every class, at least one image
    where it has two, becomes the test split. Classes are in the order of their names.
    Hidden files and files of other kinds are passed over.

    Args:
      folder: of the splits, or of the classes.
      subset_seed: draws the test split where there is none.

    Raises:
      UserError: if there are no images, a class has none to learn from, or a class to
        be tested is not among those learned.
    """
    if not folder.is_dir():
        raise UserError(f"--data folder:{folder} must name a folder; it is not one.")
    names = {child.name for child in _folders(folder)}
    validation_names = [name for name in _VALIDATION_NAMES if name in names]
    if "train" not in names:
        if "test" in names or validation_names:
            raise UserError(
                f"{folder} has no folder train beside the split to test on."
            )
        return _divide(folder, subset_seed)
    if len(validation_names) > 1:
        raise UserError(f"{folder} has both val and validation; keep one of them.")

    classes = _class_names(folder / "train")
    train = _open(folder / "train", classes)
    test = _open(folder / "test", classes) if "test" in names else None
    validation = None
    if validation_names:
        validation = _open(folder / validation_names[0], classes)
    validation, test = validation_and_test(validation, test, str(folder))
    return Splits(train, validation, test, classes)


def _divide(folder: Path, subset_seed: int) -> Splits:
    classes = _class_names(folder)
    images = _open(folder, classes)
    # A stream of its own, apart from the one that sets validation images aside.
    rng = np.random.default_rng([subset_seed, 1])
    stays, tested = hold_out(images.labels, _TEST_SHARE, rng)
    if not len(tested):
        raise UserError(
            f"{folder} has one image a class: none is left to test on. Add images, or "
            "splits train and test."
        )
    return Splits(Subset(images, stays), None, Subset(images, tested), classes)


def _class_names(folder: Path) -> tuple[str, ...]:
    """The folders with images; each must have some."""
    children = _folders(folder)
    for child in children:
        if not _image_names(child):
            raise UserError(
                f"{child} holds no images ({', '.join(IMAGE_ENDINGS)}): every class "
                "needs some to learn from; fill the folder or remove it."
            )
    if not children:
        raise UserError(
            f"{folder} holds no folders of images; expected one folder a class."
        )
    return tuple(child.name for child in children)


def _open(folder: Path, classes: tuple[str, ...]) -> ImageFiles:
    label_of = {name: label for label, name in enumerate(classes)}
    paths, labels = [], []
    for child in _folders(folder):
        images = _image_names(child)
        if not images:
            continue
        if child.name not in label_of:
            raise UserError(
                f"{child} is a class that the training split does not have; it has "
                f"{_some(classes)}."
            )
        paths += [f"{child.name}/{image}" for image in images]
        labels += [label_of[child.name]] * len(images)
    if not paths:
        raise UserError(f"{folder} holds no images; expected one folder a class.")
    return ImageFiles(folder, paths, labels)


def _folders(folder: Path) -> list[Path]:
    return [folder / name for name in _visible(folder) if (folder / name).is_dir()]


def _image_names(folder: Path) -> list[str]:
    return [name for name in _visible(folder) if name.lower().endswith(IMAGE_ENDINGS)]


def _visible(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror}.") from None


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
