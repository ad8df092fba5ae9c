"""Data sets in the colours that CLIP was trained on."""

import numpy as np

from experiments.data.dataset import Dataset, Split

# Of the pixels of CLIP's own training images, which lie in [0, 255].
CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073], np.float32) * 255
CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711], np.float32) * 255


def as_clip_sees(dataset: Dataset) -> Dataset:
    """The data set with CLIP's normalisation, and what is grey in three channels.

    Grey images are the digits, whose pixels are stretched from 16 to 255.
    """
    grey = len(dataset.mean) == 1
    parts = {
        name: _in_colour(part)
        for name in ("train", "validation", "test")
        if grey and isinstance(part := getattr(dataset, name), Split)
    }
    return dataset._replace(mean=CLIP_MEAN, std=CLIP_STD, **parts)


def _in_colour(split: Split) -> Split:
    pixels = np.round(split.images * (255 / 16)).astype(np.uint8)
    return split._replace(images=np.repeat(pixels, 3, axis=-1))
