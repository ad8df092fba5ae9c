"""Images decoded once and held in memory."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from experiments.config import Interpolation
from experiments.data.dataset import Source, Split
from experiments.data.images.decode import decode_rgb, resize_and_crop

# For files below this many bytes, the overhead of threads exceeds the decoding time.
_SMALL_FILE = 10_000


def in_memory(source: Source, size: int, interpolation: Interpolation) -> Split:
    """Decodes all images of a source into memory.

    Args:
      source: source of at least one encoded image.
      size: side in pixels; images of that size are used as they are, others are resized
        and cropped to the central square.
      interpolation: interpolation of the resizing.

    Returns:
      Images, uint8, shape ``(len(source), size, size, 3)``, and their labels.
    """
    images = np.empty((len(source), size, size, 3), np.uint8)

    def decode(index):
        image = decode_rgb(source[index], source.name(index), upright=source.upright)
        images[index] = resize_and_crop(image, size, size, interpolation)

    if len(source[0]) < _SMALL_FILE:
        for index in range(len(source)):
            decode(index)
    else:
        with ThreadPoolExecutor() as pool:
            # Reading the results raises the exceptions of the threads.
            for _ in pool.map(decode, range(len(source))):
                pass
    return Split(images, source.labels)
