"""What looks wrong with image files, and is no mistake that must end a run."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

from experiments.data.dataset import Source
from experiments.data.images.decode import largest_of_16_bits
from experiments.data.sources.files import spread_over
from experiments.errors import UserError

# So many images are opened to see whether they are dark.
_OPENED = 16
# Copies are looked for while this many bytes have to be read.
_READ = 2**30


def suspicious_files(splits: Sequence[Source]) -> tuple[str, ...]:
    """A sentence each on copies in other classes or splits, and on dark images.

    Args:
      splits: of image files, the one to learn from first.
    """
    return (*_dark(splits[0]), *_copies(splits))


def _dark(train: Source) -> tuple[str, ...]:
    found = []
    for index in spread_over(train, _OPENED):
        with suppress(UserError):  # Whoever trains on it will say so.
            value = largest_of_16_bits(train[index], train.name(index))
            found += [] if value is None else [value]
    if not found or max(found) >= 2**14:
        return ()
    return (
        f"Images of 16 bits whose values end at {max(found)} of 65535 come out nearly "
        "black, since the upper 8 bits are kept: stretch them to 65535.",
    )


def _copies(splits: Sequence[Source]) -> tuple[str, ...]:
    """Files of equal content; only those of equal size are read."""
    of_size = defaultdict(list)
    for number, split in enumerate(splits):
        for index, label in enumerate(split.labels.tolist()):
            with suppress(OSError):
                size = os.path.getsize(split.name(index))
                of_size[size].append((number, index, label))
    alike = {size: files for size, files in of_size.items() if len(files) > 1}
    if sum(size * len(files) for size, files in alike.items()) > _READ:
        return ()
    of_content = defaultdict(list)
    for files in alike.values():
        for number, index, label in files:
            with suppress(UserError):
                content = hashlib.blake2b(splits[number][index]).digest()
                of_content[content].append((number, label))
    groups = of_content.values()
    shared = sum(len({number for number, _ in group}) > 1 for group in groups)
    torn = sum(len({label for _, label in group}) > 1 for group in groups)
    notes = []
    for count, places in ((shared, "split"), (torn, "class")):
        if count:
            are = "image is" if count == 1 else "images are"
            notes.append(f"{count} {are} in more than one {places}.")
    return tuple(notes)
