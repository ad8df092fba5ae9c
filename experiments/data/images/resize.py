"""Resizing and cropping on the device.

Bilinear and bicubic interpolation use Pillow's kernels, a triangle and a cubic spline
that widen when the image shrinks. Unlike in Pillow, nothing is rounded to 8 bits.
"""

import math

import jax
import jax.numpy as jnp

from experiments.config import Config, Interpolation
from experiments.data.images.host_crop import AREA, RATIO, TRIES

# Full precision, sums too: fast products of GPUs and TPUs keep eight bits of their
# factors, as many as a pixel has.
_PRECISION = jax.lax.Precision.HIGHEST


def resize(images: jax.Array, size: int, interpolation: Interpolation) -> jax.Array:
    """Resizes images to squares; each axis is scaled separately.

    Args:
      images: pixels from 0 to 255, float, ``(batch, height, width, channels)``.
      size: side of the result, in pixels.
      interpolation: interpolation method.

    Returns:
      Array ``(batch, size, size, channels)`` of the same dtype.
    """
    batch, height, width, channels = images.shape
    if (height, width) == (size, size):
        return images
    shape = (batch, size, size, channels)
    method = {"bilinear": "linear", "bicubic": "cubic"}[interpolation]
    resized = jax.image.resize(images, shape, method, precision=_PRECISION)
    return _pixels(resized, interpolation)


def random_resized_crop(
    key: jax.Array, images: jax.Array, size: int, interpolation: Interpolation
) -> jax.Array:
    """Crops a random box of every image, resizes it to a square and mirrors half.

    The crop is drawn as in :mod:`experiments.data.images.host_crop`. Pixels outside it
    have no weight.

    Args:
      key: random key.
      images: pixels from 0 to 255, float, ``(batch, height, width, channels)``.
      size: side of the result, in pixels.
      interpolation: interpolation method.

    Returns:
      Array ``(batch, size, size, channels)`` of the same dtype.
    """
    batch, height, width, _ = images.shape
    box_key, flip_key = jax.random.split(key)
    keys = jax.random.split(box_key, batch)
    boxes = jax.vmap(lambda key: random_box(key, height, width))(keys)
    mirrored = jax.random.bernoulli(flip_key, shape=(batch,))
    return crop_and_resize(images, boxes, mirrored, size, interpolation)


def crop_and_resize(
    images: jax.Array,
    boxes: jax.Array,
    mirrored: jax.Array,
    size: int,
    interpolation: Interpolation,
) -> jax.Array:
    """Crops a given box of every image and resizes it to a square.

    Args:
      images: pixels from 0 to 255, float, ``(batch, height, width, channels)``.
      boxes: first row and column, number of rows and columns, ``(batch, 4)``.
      mirrored: whether to swap left and right, bool, ``(batch,)``.
      size: side of the result, in pixels.
      interpolation: interpolation method.

    Returns:
      Array ``(batch, size, size, channels)`` of the same dtype.
    """
    _, height, width, _ = images.shape
    kernel = _KERNELS[interpolation]
    top, left, tall, wide = boxes.astype(jnp.float32).T

    def matrices(start, crop, length):
        return jax.vmap(lambda s, p: _weights(s, p, length, size, kernel))(start, crop)

    rows, columns = matrices(top, tall, height), matrices(left, wide, width)
    columns = jnp.where(mirrored[:, None, None], columns[:, ::-1], columns)
    product = jnp.einsum(
        "bih,bjw,bhwc->bijc",
        rows.astype(images.dtype),
        columns.astype(images.dtype),
        images,
        precision=_PRECISION,
        preferred_element_type=jnp.float32,
    )
    return _pixels(product.astype(images.dtype), interpolation)


def random_box(key: jax.Array, height: int, width: int) -> jax.Array:
    """Draws a crop: 8 to 100 percent of the area, width to height 3:4 to 4:3.

    The crop is the first of ten draws that fits; if none fits, the largest central box
    that those ratios allow.

    Args:
      key: random key.
      height: height of the image, in pixels.
      width: width of the image, in pixels.

    Returns:
      First row and column, number of rows and columns, int32, ``(4,)``.
    """
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    area = (
        height
        * width
        * jax.random.uniform(area_key, (TRIES,), minval=AREA[0], maxval=AREA[1])
    )
    low, high = map(math.log, RATIO)
    ratio = jnp.exp(jax.random.uniform(ratio_key, (TRIES,), minval=low, maxval=high))
    wide = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32)
    tall = jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    first = jnp.argmax(fits)
    tall = jnp.where(fits.any(), tall[first], min(height, round(width / RATIO[0])))
    wide = jnp.where(fits.any(), wide[first], min(width, round(height * RATIO[1])))
    spare = jnp.stack([height - tall, width - wide])
    drawn = jax.random.randint(place_key, (2,), 0, spare + 1)
    corner = jnp.where(fits.any(), drawn, spare // 2)
    return jnp.concatenate([corner, jnp.stack([tall, wide])]).astype(jnp.int32)


def eval_view(config: Config, images: jax.Array) -> jax.Array:
    """Crops the central square of the network's input size for evaluation.

    Images in memory are resized first; streamed ones already have this size.

    Args:
      config: configuration with image sizes and interpolation.
      images: pixels from 0 to 255, float, ``(batch, height, width, channels)``.
    """
    size = config.network_size
    if config.in_memory:
        images = resize(images, config.eval_resize, config.interpolation)
    start = (images.shape[1] - size) // 2
    return images[:, start : start + size, start : start + size]


def _triangle(x):
    return jnp.maximum(1 - x, 0)


def _cubic(x):
    """Computes Keys' cubic convolution kernel with a = -1/2 at distances ``x``."""
    near = (1.5 * x - 2.5) * x**2 + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return jnp.where(x < 1, near, jnp.where(x < 2, far, 0))


_KERNELS = {"bilinear": _triangle, "bicubic": _cubic}


def _pixels(images, interpolation):
    """Clips the overshoot of the cubic spline."""
    return jnp.clip(images, 0, 255) if interpolation == "bicubic" else images


def _weights(start, crop, length, size, kernel):
    """Computes weights ``(size, length)`` for ``crop`` pixels from pixel ``start``."""
    scale = crop / size
    centres = start + (jnp.arange(size) + 0.5) * scale - 0.5
    pixels = jnp.arange(length, dtype=jnp.float32)
    distance = jnp.abs(centres[:, None] - pixels[None]) / jnp.maximum(scale, 1.0)
    inside = (pixels >= start) & (pixels < start + crop)
    weights = jnp.where(inside[None], kernel(distance), 0)
    return weights / weights.sum(axis=1, keepdims=True)
