"""Random changes to training images, made on the device."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

_MAX_ROTATION = jnp.pi / 15
_MAX_SCALING = 0.1
_MAX_SHIFT = 0.5


def random_affine(key: jax.Array, images: jax.Array) -> jax.Array:
    """Turns, scales and shifts every image a little, each in its own way.

    Rotations up to 12 degrees, scalings up to 10 percent an axis, shifts up to half a
    pixel, with bilinear interpolation: what a hand does to a digit. No flips, which
    make another sign of it, and no crops, for which 8x8 pixels leave no room.

    Args:
      key: random key.
      images: float array, shape ``(batch, height, width, channels)``.

    Returns:
      Array like ``images``.
    """
    return jax.vmap(_affine)(jax.random.split(key, images.shape[0]), images)


def _affine(key: jax.Array, image: jax.Array) -> jax.Array:
    height, width, _ = image.shape
    unit = jax.random.uniform(key, (5,), minval=-1.0)
    angle = unit[0] * _MAX_ROTATION
    scale = 1 + unit[1:3] * _MAX_SCALING
    shift = unit[3:5] * _MAX_SHIFT
    centre = jnp.array([height - 1, width - 1]) / 2
    rows, columns = jnp.meshgrid(
        jnp.arange(height) - centre[0], jnp.arange(width) - centre[1], indexing="ij"
    )
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    rows, columns = (
        (cosine * rows - sine * columns) * scale[0] + centre[0] + shift[0],
        (sine * rows + cosine * columns) * scale[1] + centre[1] + shift[1],
    )

    def warp(channel):
        return map_coordinates(channel, [rows, columns], order=1, mode="nearest")

    return jax.vmap(warp, in_axes=-1, out_axes=-1)(image)
