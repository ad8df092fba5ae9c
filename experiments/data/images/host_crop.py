"""Augmentation of large images on the host, one image at a time.

Uses NumPy's random numbers and Pillow's image operations. The rules are those of
torchvision's ``RandomResizedCrop``, ``RandomHorizontalFlip`` and ``ColorJitter``, which
the published results on ImageNet-LT, iNaturalist 2018 and Places-LT used.
"""

import math

import numpy as np

from experiments.config import Interpolation
from experiments.data.images.decode import import_pillow, pillow_filter

AREA = (0.08, 1.0)
RATIO = (3 / 4, 4 / 3)
TRIES = 10
_JITTER = 0.4


def random_resized_crop(
    image, size: int, interpolation: Interpolation, rng: np.random.Generator
):
    """Crops a random box, resizes it to a square and flips half of the results.

    Args:
      image: a ``PIL.Image.Image``.
      size: side of the result in pixels.
      interpolation: interpolation of the resizing.
      rng: random generator.

    Returns:
      A ``PIL.Image.Image`` of ``size`` by ``size`` pixels.

    References:
      Szegedy et al., `Going Deeper with Convolutions
      <https://arxiv.org/abs/1409.4842>`_, CVPR 2015, section 6
    """
    # Crops before resizing, so that no pixel outside the crop has any weight.
    crop = image.crop(random_box(*image.size, rng))
    crop = crop.resize((size, size), pillow_filter(interpolation))
    if rng.random() < 0.5:
        crop = crop.transpose(import_pillow().Transpose.FLIP_LEFT_RIGHT)
    return crop


def random_box(
    width: int, height: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draws a crop: 8 to 100 percent of the area, width to height 3:4 to 4:3.

    A crop that does not fit is drawn again. After ten tries, the crop is the largest
    central box that those ratios allow.

    Args:
      width: width of the image, in pixels.
      height: height of the image, in pixels.
      rng: random generator.

    Returns:
      Left, top, right and bottom of the crop; right and bottom are exclusive.
    """
    for _ in range(TRIES):
        area = width * height * rng.uniform(*AREA)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            left = int(rng.integers(width - columns + 1))
            top = int(rng.integers(height - rows + 1))
            return left, top, left + columns, top + rows
    columns = min(width, round(height * RATIO[1]))
    rows = min(height, round(width / RATIO[0]))
    left, top = (width - columns) // 2, (height - rows) // 2
    return left, top, left + columns, top + rows


def color_jitter(image, rng: np.random.Generator):
    """Changes brightness, contrast and saturation by up to 40 percent, in random order.

    Args:
      image: a ``PIL.Image.Image`` of mode RGB.
      rng: random generator.

    Returns:
      A ``PIL.Image.Image`` like ``image``.
    """
    from PIL import ImageEnhance

    enhancers = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    factors = rng.uniform(1 - _JITTER, 1 + _JITTER, len(enhancers))
    for i in rng.permutation(len(enhancers)):
        image = enhancers[i](image).enhance(factors[i])
    return image
