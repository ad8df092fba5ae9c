"""Image files, subsets of sources, and the return type of all readers."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from experiments.data.dataset import Source
from experiments.errors import UserError

# Mean and standard deviation of ImageNet's pixels, in [0, 255]; default for other sets.
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32) * 255
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32) * 255

_Split = TypeVar("_Split")


class Splits(NamedTuple):
    """A data set before subsampling and before a validation split is held out.

    Attributes:
      train: training split.
      validation: validation split, or ``None``.
      test: split that reported numbers come from.
      class_names: name of each class.
      mean: mean pixel value of each channel, float32, ``(3,)``.
      std: standard deviation of each channel, float32, ``(3,)``.
      notes: notes to the user on how the data were read, one sentence each.
    """

    train: Source
    validation: Source | None
    test: Source
    class_names: tuple[str, ...]
    mean: np.ndarray = IMAGENET_MEAN
    std: np.ndarray = IMAGENET_STD
    notes: tuple[str, ...] = ()


class ImageFiles:
    """A source of image files in a folder."""

    upright = True

    def __init__(self, folder: Path, paths: Sequence[str], labels: Sequence[int]):
        """
        Args:
          folder: folder that relative paths start from.
          paths: paths of the files, absolute or relative.
          labels: one label per file.
        """
        self.folder = folder
        self.paths = tuple(paths)
        self.labels = np.array(labels, np.int32)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> bytes:
        path = self.folder / self.paths[index]
        try:
            return path.read_bytes()
        except OSError as error:
            raise _unreadable(path, error) from None

    def name(self, index: int) -> str:
        """Returns the path of the file."""
        return str(self.folder / self.paths[index])

    def key(self, index: int) -> str:
        """Returns the path of the file, as it was given, and its size in bytes."""
        path = self.paths[index]
        try:
            return f"{path} {os.stat(self.folder / path).st_size}"
        except OSError as error:
            raise _unreadable(self.name(index), error) from None


def _unreadable(path: Path | str, error: OSError) -> UserError:
    return UserError(f"{path} cannot be read: {error.strerror}.")


class Subset:
    """Some examples of a source, in a given order."""

    def __init__(
        self, source: Source, indices: np.ndarray, labels: np.ndarray | None = None
    ):
        """
        Args:
          source: source of the examples.
          indices: indices of the subset's examples, ints, shape ``(size,)``.
          labels: labels of the subset's examples, if they differ from the source's.
        """
        self.source = source
        self.upright = source.upright
        self.indices = indices
        self.labels = source.labels[indices] if labels is None else labels

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> bytes:
        return self.source[int(self.indices[index])]

    def name(self, index: int) -> str:
        """Returns the source's name of the example."""
        return self.source.name(int(self.indices[index]))

    def key(self, index: int) -> str:
        """Returns the source's key of the example."""
        return self.source.key(int(self.indices[index]))


def hash_of(source: Source) -> str:
    """Hashes the keys and labels of a source, in order: 64 hexadecimal digits."""
    found = hashlib.sha256()
    for index, label in enumerate(source.labels.tolist()):
        found.update(f"{source.key(index)} {label}\n".encode(errors="surrogateescape"))
    return found.hexdigest()


def spread_over(source: Source, number: int) -> list[int]:
    """Returns ``number`` evenly spaced indices of a source, or all if it has fewer."""
    places = np.linspace(0, len(source) - 1, number).astype(int)
    return list(dict.fromkeys(places.tolist()))


def some_of(names: Sequence[str]) -> str:
    """Joins up to five names for a message; three dots stand for more."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def counted(number: int, noun: str) -> str:
    """Returns such as "1 file" or "2 files"."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def validation_and_test(
    validation: _Split | None, test: _Split | None, where: str
) -> tuple[_Split | None, _Split]:
    """Returns the splits for validation and test.

    Without a test split, the validation split becomes the test split.

    Args:
      validation: validation split, or ``None``.
      test: test split with labels, or ``None``.
      where: name of the data set, for the message.

    Returns:
      The validation split, or ``None``, and the test split.

    Raises:
      UserError: if both are ``None``.
    """
    if test is not None:
        return validation, test
    if validation is None:
        raise UserError(
            f"{where} has neither a test nor a validation split with labels; one of "
            "them is needed to measure accuracy."
        )
    return None, validation
