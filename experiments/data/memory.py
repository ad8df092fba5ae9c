"""Images decoded once and held in memory."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from experiments.config import Interpolation
from experiments.data.dataset import Source, Split
from experiments.data.images.decode import decode_rgb, resize_to

# Files below this many bytes take threads longer to share out than to decode.
_SMALL_FILE = 10_000


def in_memory(source: Source, size: int, interpolation: Interpolation) -> Split:
    """All images of a source as pixels.

    Args:
      source: of encoded images, at least one.
      size: side in pixels; images of that size are not touched, others are resized and
        cut to the middle square.
      interpolation: between pixels, where they are resized.

    Returns:
      Images of shape ``(len(source), size, size, 3)`` and their labels.
    """
    images = np.empty((len(source), size, size, 3), np.uint8)

    def decode(index):
        image = decode_rgb(source[index], source.name(index), upright=source.upright)
        images[index] = resize_to(image, size, interpolation)

    if len(source[0]) < _SMALL_FILE:
        for index in range(len(source)):
            decode(index)
    else:
        with ThreadPoolExecutor() as pool:
            # What went wrong in a thread is raised here, where its result is read.
            for _ in pool.map(decode, range(len(source))):
                pass
    return Split(images, source.labels)
