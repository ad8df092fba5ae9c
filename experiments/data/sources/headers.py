"""Search for unreadable image files by their headers, before training."""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from experiments.data.dataset import Source
from experiments.data.images.decode import image_size_of_file
from experiments.data.sources.files import Splits, Subset, some_of
from experiments.data.sources.label_cache import fingerprint
from experiments.errors import UserError

# Holds one empty file, named by fingerprint, for every set of only readable files.
_GOOD = Path("~/.cache/focal_sam_jax/headers")
_THREADS = 16
_SPLITS = ("train", "validation", "test")
# Number of files between two progress messages, and smallest set that is cached.
_MANY = 10_000


def without_unreadable(
    splits: Splits, *, skip: bool, tell: Callable[[str], None]
) -> Splits:
    """Checks the headers of image files; removes unreadable files and adds a note.

    Args:
      splits: splits of image files. Only the headers are read, a few thousand a second.
        A large split that is all readable is not read again until a file changes.
      skip: whether to remove unreadable files instead of raising an error.
      tell: function that is called with progress messages.

    Raises:
      UserError: if there are unreadable files and ``skip`` is false.
    """
    bad, kept = [], {}
    for split in _SPLITS:
        source = getattr(splits, split)
        if source is None:
            continue
        unreadable = _unreadable(source, lambda text, of=split: tell(f"{of}: {text}"))
        if unreadable:
            bad += [source.name(i) for i in unreadable]
            readable = np.delete(np.arange(len(source)), unreadable)
            kept[split] = Subset(source, readable)
    if not bad:
        return splits
    files = "1 file" if len(bad) == 1 else f"{len(bad)} files"
    if not skip:
        raise UserError(
            f"{files} without an image header: {some_of(bad)}. Replace or remove them, "
            "or leave them out with --skip-unreadable."
        )
    note = f"Left out {files} without an image header: {some_of(bad)}."
    return splits._replace(**kept, notes=(*splits.notes, note))


def _unreadable(source: Source, tell: Callable[[str], None]) -> list[int]:
    """Returns the indices of files without an image header, ascending."""
    paths = [source.name(i) for i in range(len(source))]
    good = None
    # The home folder may not exist, and a listed file may have been deleted.
    with contextlib.suppress(OSError, RuntimeError):
        good = _GOOD.expanduser() / fingerprint(paths, None)
        if good.exists():
            return []
    unreadable = _without_header(paths, tell)
    if good and not unreadable and len(paths) >= _MANY:
        with contextlib.suppress(OSError):
            good.parent.mkdir(parents=True, exist_ok=True)
            good.touch()
    return unreadable


def _without_header(paths: list[str], tell: Callable[[str], None]) -> list[int]:
    bad = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for index, readable in enumerate(pool.map(_has_header, paths)):
            bad += [] if readable else [index]
            if (index + 1) % _MANY == 0:
                tell(f"read the headers of {index + 1} of {len(paths)} files")
    return bad


def _has_header(path: str) -> bool:
    try:
        image_size_of_file(path)
    except UserError:
        return False
    return True
