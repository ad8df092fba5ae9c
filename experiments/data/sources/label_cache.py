"""Cache on disk for the labels, keys and positions of all records of a split."""

import contextlib
import hashlib
import os
import uuid
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

# Hidden folder in the folder of data sets; safe to delete at any time.
CACHE_FOLDER = ".focal_sam_labels"

_DAMAGED = (zipfile.BadZipFile, zlib.error)


class RecordIndex(NamedTuple):
    """An index of all records of a split.

    Attributes:
      labels: class labels, int32, shape ``(size,)``.
      keys: name of each record, bytes, shape ``(size,)``; empty if not needed.
      positions: positions of the records in TFRecord files, int64, shape ``(size, 3)``;
        empty for files that have their own index.
    """

    labels: np.ndarray
    keys: np.ndarray
    positions: np.ndarray


def fingerprint(paths: Sequence[str], key: str | None) -> str:
    """Hashes names, sizes and modification times of files.

    Args:
      paths: paths of the files.
      key: name of the feature whose values are the keys of the index.

    Returns:
      16 hexadecimal digits.

    Raises:
      OSError: if a file is missing.
    """
    stats = [(os.path.basename(path), os.stat(path)) for path in paths]
    facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(repr((facts, key)).encode()).hexdigest()[:16]


def cached(path: Path, build: Callable[[], RecordIndex]) -> RecordIndex:
    """Reads the index from a file, or else builds it and writes it there.

    Reading the labels of a million records takes minutes. A file that cannot be read is
    replaced; if the folder is not writable, nothing is cached.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return RecordIndex(**{name: arrays[name] for name in RecordIndex._fields})
    except (OSError, ValueError, LookupError, EOFError, *_DAMAGED):
        index = build()
    with contextlib.suppress(OSError):
        _write(path, index)
    return index


def _write(path: Path, index: RecordIndex) -> None:
    """Writes the file atomically, also if several processes write it."""
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_name(f"{uuid.uuid4().hex}.tmp")
    try:
        with unfinished.open("xb") as file:
            np.savez_compressed(file, **index._asdict())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
