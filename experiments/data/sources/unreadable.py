"""Search for image files that cannot be read, before they are needed."""

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from experiments.data.images.decode import check_image_file
from experiments.data.sources.files import Splits, Subset, counted, some_of
from experiments.data.sources.label_cache import fingerprint
from experiments.errors import UserError

# Holds one empty file, named by fingerprint, for every set of only readable files.
_GOOD = Path("~/.cache/focal_sam_jax/readable")
_THREADS = 16
_SPLITS = ("train", "validation", "test")
# Number of files between two progress messages, and smallest set that is cached.
_MANY, _CACHED = 10_000, 1000


def without_unreadable(
    splits: Splits, *, skip: bool, tell: Callable[[str], None]
) -> Splits:
    """Checks that image files can be decoded; removes those that cannot; adds a note.

    Args:
      splits: splits of image files. A large split that is all readable is not checked
        again until a file changes.
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
        paths = [source.name(i) for i in range(len(source))]
        unreadable = _unreadable(paths, lambda text, of=split: tell(f"{of}: {text}"))
        if unreadable:
            bad += [paths[i] for i in unreadable]
            readable = np.delete(np.arange(len(source)), unreadable)
            kept[split] = Subset(source, readable)
    if not bad:
        return splits
    number = counted(len(bad), "file")
    which = f"{number} that cannot be read as images: {some_of(bad)}."
    if not skip:
        raise UserError(
            f"{which} Replace or remove them, or leave them out with --skip-unreadable."
        )
    note = f"Left out {which}"
    return splits._replace(**kept, notes=(*splits.notes, note))


def find_unreadable(
    paths: Sequence[str], tell: Callable[[str], None] = lambda text: None
) -> list[int]:
    """Decodes image files; returns the indices of the unreadable ones, ascending.

    Args:
      paths: the files.
      tell: function that is called with progress messages.
    """
    bad = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for index, readable in enumerate(pool.map(_is_readable, paths)):
            bad += [] if readable else [index]
            if (index + 1) % _MANY == 0:
                tell(f"checked {index + 1} of {len(paths)} files")
    return bad


def _unreadable(paths: list[str], tell: Callable[[str], None]) -> list[int]:
    """Returns what :func:`find_unreadable` does; remembers large sets without any."""
    good = None
    # The home folder may not exist, and a listed file may have been deleted.
    with contextlib.suppress(OSError, RuntimeError):
        good = _GOOD.expanduser() / fingerprint(paths, None)
        if good.exists():
            return []
    unreadable = find_unreadable(paths, tell)
    if good and not unreadable and len(paths) >= _CACHED:
        with contextlib.suppress(OSError):
            good.parent.mkdir(parents=True, exist_ok=True)
            good.touch()
    return unreadable


def _is_readable(path: str) -> bool:
    try:
        check_image_file(path)
    except UserError:
        return False
    return True
