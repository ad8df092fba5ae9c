"""What must be known of all records before the first image is read, kept on disk."""

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

# In the folder of data sets; hidden, and safe to delete at any time.
CACHE_FOLDER = ".focal_sam_labels"

_DAMAGED = (zipfile.BadZipFile, zlib.error)


class RecordIndex(NamedTuple):
    """Read once from all records of a split.

    Attributes:
      labels: int32, shape ``(size,)``.
      keys: each record's own name, bytes, shape ``(size,)``; empty where none is
        needed.
      positions: of the records in TFRecord files, int64, shape ``(size, 3)``; empty for
        files that have an index of their own.
    """

    labels: np.ndarray
    keys: np.ndarray
    positions: np.ndarray


def fingerprint(paths: Sequence[str], key: str | None) -> str:
    """Changes whenever one of the files does.

    Args:
      paths: of the files; their names, sizes and times of change count.
      key: of which feature the index holds the values.

    Returns:
      16 hexadecimal digits.

    Raises:
      OSError: if a file is not there.
    """
    stats = [(os.path.basename(path), os.stat(path)) for path in paths]
    facts = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(repr((facts, key)).encode()).hexdigest()[:16]


def cached(path: Path, build: Callable[[], RecordIndex]) -> RecordIndex:
    """The index in a file, or a new one that is written there.

    Reading the labels of a million records takes minutes. A file that cannot be read is
    written anew; a folder that cannot be written to means no cache.
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
    """All or nothing, also where several processes write the same file."""
    path.parent.mkdir(exist_ok=True)
    unfinished = path.with_name(f"{uuid.uuid4().hex}.tmp")
    try:
        with unfinished.open("xb") as file:
            np.savez_compressed(file, **index._asdict())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
