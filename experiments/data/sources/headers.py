"""Image files that cannot be read, found by their headers before any training."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from experiments.data.dataset import Source
from experiments.data.images.decode import image_size_of_file
from experiments.data.sources.files import Splits, Subset, some_of
from experiments.errors import UserError

_THREADS = 16
_SPLITS = ("train", "validation", "test")


def without_unreadable(splits: Splits, *, skip: bool) -> Splits:
    """The splits without the files that are no images, of which a note tells.

    Args:
      splits: of image files. Their headers alone are read, some thousand a second.
      skip: leave such files out, rather than name them and end.

    Raises:
      UserError: if there are some and they are not to be left out.
    """
    bad, kept = [], {}
    for split in _SPLITS:
        source = getattr(splits, split)
        if source is None:
            continue
        readable = _readable(source)
        if not readable.all():
            bad += [source.name(i) for i in np.flatnonzero(~readable)]
            kept[split] = Subset(source, np.flatnonzero(readable))
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


def _readable(source: Source) -> np.ndarray:
    """Whether each file has the header of an image, bool, ``(size,)``."""

    def is_readable(index: int) -> bool:
        try:
            image_size_of_file(source.name(index))
        except UserError:
            return False
        return True

    with ThreadPoolExecutor(_THREADS) as pool:
        return np.fromiter(pool.map(is_readable, range(len(source))), bool)
