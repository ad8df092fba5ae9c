"""Augmentation of training images on the device, before they are normalised."""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

from experiments.config import Config
from experiments.data.images.resize import random_resized_crop, resize
from experiments.errors import UserError

_MAX_ROTATION = jnp.pi / 15
_MAX_SCALING = 0.1
_MAX_SHIFT = 0.5

_IN_MEMORY = ("none", "affine", "crop_flip", "resized_crop")
_STREAMED = ("resized_crop", "resized_crop_jitter")


def check_augmentation(config: Config) -> None:
    """Checks that the augmentation suits the data, before anything is read or compiled.

    Raises:
      UserError: if the augmentation is for streamed images and these are in memory, or
        the reverse; if streamed images have an ``input_size``; or if digits would be
        mirrored, which turns them into other characters.
    """
    allowed = _IN_MEMORY if config.in_memory else _STREAMED
    if config.augment not in allowed:
        where = "held in memory" if config.in_memory else "streamed"
        raise UserError(
            f"--augment {config.augment} cannot be used for images of "
            f"{config.image_size} pixels, which are {where}: choose one of "
            f"{', '.join(allowed)}."
        )
    if config.input_size and not config.in_memory:
        raise UserError(
            "--input-size is for images held in memory, but those of "
            f"{config.image_size} pixels are streamed: set only --image-size."
        )
    if config.data == "digits" and config.augment in ("crop_flip", "resized_crop"):
        raise UserError(
            f"--augment {config.augment} would turn digits into other characters: "
            "choose affine or none."
        )


def augment(config: Config, key: jax.Array, images: jax.Array) -> jax.Array:
    """Applies the augmentation of the configuration, which is static under ``jit``.

    Streamed images are already cropped.

    Args:
      config: configuration that passes ``check_augmentation``.
      key: random key.
      images: float pixels, not normalised, ``(batch, height, width, channels)``.

    Returns:
      Array like ``images``, of the network's input size.
    """
    match config.augment:
        case "affine":
            images = random_affine(jax.random.fold_in(key, 0), images)
        case "crop_flip":
            images = random_crop_flip(jax.random.fold_in(key, 1), images)
        case "resized_crop" if config.in_memory:
            key = jax.random.fold_in(key, 4)
            return random_resized_crop(
                key, images, config.network_size, config.interpolation
            )
    if config.input_size:
        return resize(images, config.input_size, config.interpolation)
    return images


def random_crop_flip(key: jax.Array, images: jax.Array, padding: int = 4) -> jax.Array:
    """Shifts every image by a few pixels, padded with zeros, and mirrors half of them.

    Args:
      key: random key.
      images: shape ``(batch, height, width, channels)``.
      padding: largest shift, in pixels.

    Returns:
      Array like ``images``.
    """
    batch, height, width, _ = images.shape
    crop_key, flip_key = jax.random.split(key)
    corners = jax.random.randint(crop_key, (2, batch, 1), 0, 2 * padding + 1)
    mirrored = jax.random.bernoulli(flip_key, shape=(batch, 1))
    rows, columns = jnp.arange(height)[None], jnp.arange(width)[None]
    rows = corners[0] + rows
    columns = corners[1] + jnp.where(mirrored, columns[:, ::-1], columns)
    edge = (padding, padding)
    padded = jnp.pad(images, ((0, 0), edge, edge, (0, 0)))
    # One gather crops and mirrors. It is as fast as a slice per image and a select, and
    # on CPU four times as fast as products with one-hot matrices.
    which = jnp.arange(batch)[:, None, None]
    return padded[which, rows[:, :, None], columns[:, None, :]]


def random_affine(key: jax.Array, images: jax.Array) -> jax.Array:
    """Rotates, scales and shifts every image at random.

    Rotations up to 12 degrees, scalings up to 10 percent per axis, shifts up to half a
    pixel, with bilinear interpolation, as in handwriting. There are no flips, which
    change a digit, and no crops, for which 8x8 pixels are too few.

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
