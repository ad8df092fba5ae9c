"""Warnings about suspicious image files, which do not stop a run."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress

from experiments.data.dataset import Source
from experiments.data.images.decode import largest_of_16_bits
from experiments.data.sources.files import some_of, spread_over
from experiments.errors import UserError

# Number of images that are opened to find dark ones.
_OPENED = 16
# Copies are searched for only if at most this many bytes must be read.
_READ = 2**30


def suspicious_files(splits: Sequence[Source]) -> tuple[str, ...]:
    """Returns one sentence each on dark images, and on copies across splits or classes.

    Args:
      splits: splits of image files, the training split first.
    """
    return (*_dark(splits[0]), *_copies(splits))


def _dark(train: Source) -> tuple[str, ...]:
    found = []
    for index in spread_over(train, _OPENED):
        with suppress(UserError):  # Training reports unreadable images.
            value = largest_of_16_bits(train[index], train.name(index))
            found += [] if value is None else [value]
    if not found or max(found) >= 2**14:
        return ()
    return (
        f"16-bit images with values up to only {max(found)} of 65535 become nearly "
        "black, because only the upper 8 bits are kept: scale them to 65535.",
    )


def _copies(splits: Sequence[Source]) -> tuple[str, ...]:
    """Finds files of equal content; only files of equal size are read."""
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
                split = splits[number]
                content = hashlib.blake2b(split[index]).digest()
                of_content[content].append((number, label, split.name(index)))
    notes = []
    for places, which in (("split", 0), ("class", 1)):
        found = [
            files
            for files in of_content.values()
            if len({file[which] for file in files}) > 1
        ]
        if found:
            are = "image is" if len(found) == 1 else "images are"
            names = [" = ".join(name for *_, name in files) for files in found]
            notes.append(
                f"{len(found)} {are} in more than one {places}: {some_of(names)}."
            )
    return tuple(notes)
