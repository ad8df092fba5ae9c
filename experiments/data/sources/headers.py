"""Image files that cannot be read, found by their headers before any training."""

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

# An empty file for every set of files that are all good, by their fingerprint.
_GOOD = Path("~/.cache/focal_sam_jax/headers")
_THREADS = 16
_SPLITS = ("train", "validation", "test")
# Files that take some seconds: between two words on how far it is, and to remember.
_MANY = 10_000


def without_unreadable(
    splits: Splits, *, skip: bool, tell: Callable[[str], None]
) -> Splits:
    """The splits without the files that are no images, of which a note tells.

    Args:
      splits: of image files. Their headers alone are read, some thousand a second; if
        there are many and all are good, not again until one changes.
      skip: leave such files out, rather than name them and end.
      tell: says how far it is, where it takes long.

    Raises:
      UserError: if there are some and they are not to be left out.
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
            f"{files} without the header of an image: {some_of(bad)}. Replace or "
            "remove them, or leave them out by --skip-unreadable."
        )
    note = f"Left out, without the header of an image: {files}, {some_of(bad)}."
    return splits._replace(**kept, notes=(*splits.notes, note))


def _unreadable(source: Source, tell: Callable[[str], None]) -> list[int]:
    """The indices of files without the header of an image, ascending."""
    paths = [source.name(i) for i in range(len(source))]
    good = None
    # There may be no home, and a file may be gone since it was listed.
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
                tell(f"the headers of {index + 1} of {len(paths)} files are read")
    return bad


def _has_header(path: str) -> bool:
    try:
        image_size_of_file(path)
    except UserError:
        return False
    return True
