"""Resizing and cropping on the device: a product with a matrix for every axis.

A row of the matrix holds the weights with which pixels make up one of the result. They
are Pillow's for bilinear interpolation, a triangle that widens where the image shrinks,
but nothing is rounded to 8 bits.
"""

import math

import jax
import jax.numpy as jnp

_AREA = (0.08, 1.0)
_RATIO = (3 / 4, 4 / 3)
_TRIES = 10


def resize(images: jax.Array, size: int) -> jax.Array:
    """Squares of another size, each axis scaled on its own.

    Args:
      images: float, ``(batch, height, width, channels)``.
      size: side of the result, in pixels.

    Returns:
      Array ``(batch, size, size, channels)`` of the same dtype.
    """
    _, height, width, _ = images.shape
    if (height, width) == (size, size):
        return images
    rows, columns = (
        _weights(jnp.zeros(()), jnp.asarray(float(length)), length, size)
        for length in (height, width)
    )
    return _product("ih,jw,bhwc->bijc", rows, columns, images)


def random_resized_crop(key: jax.Array, images: jax.Array, size: int) -> jax.Array:
    """A random part of every image, resized to a square and mirrored in half of cases.

    The part is drawn as in :mod:`experiments.data.resized_crop`, and no pixel from
    outside it comes in.

    Args:
      key: random key.
      images: float, ``(batch, height, width, channels)``.
      size: side of the result, in pixels.

    Returns:
      Array ``(batch, size, size, channels)`` of the same dtype.
    """
    batch, height, width, _ = images.shape
    box_key, flip_key = jax.random.split(key)
    keys = jax.random.split(box_key, batch)
    boxes = jax.vmap(lambda key: random_box(key, height, width))(keys)
    mirrored = jax.random.bernoulli(flip_key, shape=(batch,))
    return crop_and_resize(images, boxes, mirrored, size)


def crop_and_resize(
    images: jax.Array, boxes: jax.Array, mirrored: jax.Array, size: int
) -> jax.Array:
    """A given part of every image, resized to a square.

    Args:
      images: float, ``(batch, height, width, channels)``.
      boxes: first row and column, number of rows and columns, ``(batch, 4)``.
      mirrored: whether left and right change places, bool, ``(batch,)``.
      size: side of the result, in pixels.

    Returns:
      Array ``(batch, size, size, channels)`` of the same dtype.
    """
    _, height, width, _ = images.shape
    top, left, tall, wide = boxes.astype(jnp.float32).T

    def matrices(start, part, length):
        return jax.vmap(lambda s, p: _weights(s, p, length, size))(start, part)

    rows, columns = matrices(top, tall, height), matrices(left, wide, width)
    columns = jnp.where(mirrored[:, None, None], columns[:, ::-1], columns)
    return _product("bih,bjw,bhwc->bijc", rows, columns, images)


def random_box(key: jax.Array, height: int, width: int) -> jax.Array:
    """Where to crop: 8 to 100 percent of the area, width to height 3:4 to 4:3.

    The first of ten draws that fits; if none does, the middle of the image, as much of
    it as those ratios allow.

    Args:
      key: random key.
      height: of the image, in pixels.
      width: of the image, in pixels.

    Returns:
      First row and column, number of rows and columns, int32, ``(4,)``.
    """
    area_key, ratio_key, place_key = jax.random.split(key, 3)
    area = (
        height
        * width
        * jax.random.uniform(area_key, (_TRIES,), minval=_AREA[0], maxval=_AREA[1])
    )
    low, high = map(math.log, _RATIO)
    ratio = jnp.exp(jax.random.uniform(ratio_key, (_TRIES,), minval=low, maxval=high))
    wide = jnp.round(jnp.sqrt(area * ratio)).astype(jnp.int32)
    tall = jnp.round(jnp.sqrt(area / ratio)).astype(jnp.int32)
    fits = (wide > 0) & (wide <= width) & (tall > 0) & (tall <= height)
    first = jnp.argmax(fits)
    tall = jnp.where(fits.any(), tall[first], min(height, round(width / _RATIO[0])))
    wide = jnp.where(fits.any(), wide[first], min(width, round(height * _RATIO[1])))
    spare = jnp.stack([height - tall, width - wide])
    drawn = jax.random.randint(place_key, (2,), 0, spare + 1)
    corner = jnp.where(fits.any(), drawn, spare // 2)
    return jnp.concatenate([corner, jnp.stack([tall, wide])]).astype(jnp.int32)


def five_crops(images: jax.Array, size: int) -> jax.Array:
    """The four corners and the middle.

    Args:
      images: ``(batch, height, width, channels)``.
      size: side of the parts, in pixels.

    Returns:
      Array ``(5, batch, size, size, channels)``.

    Raises:
      ValueError: if the images are smaller.
    """
    _, height, width, _ = images.shape
    if min(height, width) < size:
        raise ValueError(
            f"images must have at least {size} by {size} pixels, got {height} by "
            f"{width}."
        )
    bottom, right = height - size, width - size
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
    corners.append((round(bottom / 2), round(right / 2)))
    return jnp.stack(
        [images[:, row : row + size, left : left + size] for row, left in corners]
    )


def _weights(start, part, length, size):
    """Weights of ``length`` pixels for ``size``, of ``part`` pixels from ``start``."""
    scale = part / size
    centres = start + (jnp.arange(size) + 0.5) * scale - 0.5
    pixels = jnp.arange(length, dtype=jnp.float32)
    distance = jnp.abs(centres[:, None] - pixels[None]) / jnp.maximum(scale, 1.0)
    inside = (pixels >= start) & (pixels < start + part)
    weights = jnp.where(inside[None], jnp.maximum(1 - distance, 0), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def _product(subscripts, rows, columns, images):
    # In full precision, sums too: pixels have eight bits, and so have the factors of
    # the fast products of GPUs and TPUs.
    rows, columns = rows.astype(images.dtype), columns.astype(images.dtype)
    product = jnp.einsum(
        subscripts,
        rows,
        columns,
        images,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )
    return product.astype(images.dtype)
