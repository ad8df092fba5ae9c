"""IDX files, the format of MNIST, Fashion-MNIST, KMNIST, EMNIST and similar sets."""

import gzip
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.data.sources.files import Splits
from experiments.errors import UserError

# Statistics of Fashion-MNIST's training pixels, and its classes (Xiao et al., arXiv
# 1708.07747).
FASHION_MEAN, FASHION_STD = np.full(3, 72.94, np.float32), np.full(3, 90.02, np.float32)
_FASHION_NAMES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat")
_FASHION_NAMES += ("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")

_IMAGES, _LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"
_TRAIN, _TESTS = "train-", ("t10k-", "test-")
_UINT8 = 8


class _Images:
    """A source of grey images in memory."""

    upright = False

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, file: Path):
        self.pixels, self.labels, self._file = pixels, labels, file

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> bytes:
        """Returns a portable grey map: a header line and the raw pixels."""
        image = self.pixels[index]
        height, width = image.shape
        return f"P5 {width} {height} 255\n".encode() + image.tobytes()

    def name(self, index: int) -> str:
        """Returns the file, and the index of the image in it."""
        return f"image {index} of {self._file}"

    def key(self, index: int) -> str:
        """Returns the index in the file, and a checksum of the pixels."""
        return f"{index} {zlib.crc32(self.pixels[index].tobytes()):08x}"


class _Found(NamedTuple):
    """The four files of a set: images and labels for training and for test."""

    train: tuple[Path, Path]
    test: tuple[Path, Path]


def has_idx(folder: Path) -> bool:
    """Returns whether a folder holds images in IDX files."""
    return any(folder.glob(f"*{_IMAGES}*"))


def fashion_mnist(folder: Path) -> Splits:
    """Reads Fashion-MNIST: 10 classes, 6,000 training and 1,000 test images each."""
    splits = from_idx(folder)
    if len(splits.class_names) != len(_FASHION_NAMES):
        raise UserError(
            f"{folder} has images of {len(splits.class_names)} classes, but "
            f"Fashion-MNIST has {len(_FASHION_NAMES)}: pass --data idx:{folder}."
        )
    return splits._replace(
        class_names=_FASHION_NAMES, mean=FASHION_MEAN, std=FASHION_STD
    )


def from_idx(path: Path) -> Splits:
    """Reads a set of four IDX files of images and labels, compressed (``.gz``) or not.

    They are named ``train-images-idx3-ubyte`` and ``train-labels-idx1-ubyte``, and the
    same with ``t10k`` or ``test`` for ``train``; all may begin with the name of the
    set, as in EMNIST. The classes are named by their label values, in ascending order.

    Args:
      path: path of the folder; if it holds several sets, followed by the name of one:
        ``FOLDER/emnist-letters``.

    Raises:
      UserError: if a file is missing, damaged or not of that format, or if there are
        several sets.
    """
    found = _find(path)
    train, test = (_read_split(*files) for files in found)
    values = np.unique(train[1])
    if strange := sorted(set(test[1].tolist()) - set(values.tolist())):
        raise UserError(
            f"{found.test[1]} has the label {strange[0]}, which no training image has."
        )
    # Statistics of all training images, before subsampling.
    mean, std = train[0].mean(dtype=np.float64), train[0].std(dtype=np.float64)
    splits = [
        _Images(pixels, np.searchsorted(values, labels).astype(np.int32), files[0])
        for (pixels, labels), files in zip((train, test), found, strict=True)
    ]
    return Splits(
        splits[0],
        None,
        splits[1],
        tuple(map(str, values.tolist())),
        np.full(3, mean, np.float32),
        np.full(3, max(std, 1e-6), np.float32),
    )


def _find(path: Path) -> _Found:
    folder, name = (path, None) if path.is_dir() else (path.parent, path.name)
    wanted = f"{_TRAIN}{_IMAGES}"
    sets = {
        file.name.partition(wanted)[0]
        for file in folder.glob(f"*{wanted}*")
        if name is None or file.name.startswith(f"{name}-")
    }
    if not sets:
        raise UserError(
            f"{path} has no {wanted} or {wanted}.gz: it is not an IDX data set."
        )
    if len(sets) > 1:
        raise UserError(
            f"{folder} contains several data sets: add the name of one of them, "
            + " or ".join(str(folder / prefix.rstrip("-")) for prefix in sorted(sets))
            + "."
        )
    (prefix,) = sets
    tests = [t for t in _TESTS if _with_gz(folder / f"{prefix}{t}{_IMAGES}")]
    test = tests[0] if tests else _TESTS[0]
    return _Found(*(_pair(folder, prefix + part) for part in (_TRAIN, test)))


def _pair(folder: Path, start: str) -> tuple[Path, Path]:
    images, labels = folder / f"{start}{_IMAGES}", folder / f"{start}{_LABELS}"
    files = _with_gz(images), _with_gz(labels)
    for wanted, file in zip((images, labels), files, strict=True):
        if file is None:
            raise UserError(f"there is no {wanted} or {wanted}.gz.")
    return files


def _with_gz(file: Path) -> Path | None:
    """Returns the file, or else its compressed version, or ``None``."""
    packed = file.with_name(f"{file.name}.gz")
    return next((f for f in (file, packed) if f.exists()), None)


def _read_split(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Reads pixels ``(size, height, width)`` and labels ``(size,)``, both uint8."""
    pixels, values = _read(images, axes=3), _read(labels, axes=1)
    if len(pixels) != len(values):
        raise UserError(
            f"{images} has {len(pixels)} images and {labels} {len(values)} labels: "
            "they do not belong together."
        )
    if pixels.size == 0:
        raise UserError(f"{images} has no images.")
    return pixels, values


def _read(file: Path, axes: int) -> np.ndarray:
    """Reads the array of an IDX file.

    The file has two zero bytes, the type of the values, the number of axes, the length
    of each axis as a big-endian uint32, and the values.
    """
    try:
        content = file.read_bytes()
        if file.suffix == ".gz":
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file} is damaged or cannot be read: {error}.") from None
    start = 4 + 4 * axes
    if content[:4] != bytes([0, 0, _UINT8, axes]) or len(content) < start:
        raise UserError(
            f"{file} is not an IDX file of unsigned bytes with {axes} "
            f"{'axis' if axes == 1 else 'axes'}: it begins with {content[:4].hex(' ')}."
        )
    shape = tuple(np.frombuffer(content[4:start], ">u4").tolist())
    if len(content) - start != math.prod(shape):
        raise UserError(
            f"{file} has {len(content) - start} values, but its header declares "
            f"{' x '.join(map(str, shape))}: it is truncated, or not an IDX file."
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
