"""Two random operations an image, of fourteen, as compiled arithmetic.

The operations are Pillow's on 8-bit pixels, and their strengths torchvision's. Images
of a batch take different ones, so all are computed and one is picked: the geometric
ones are a single warp, the blends a single blend.
"""

import jax
import jax.numpy as jnp

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
_GEOMETRIC = OPERATIONS[1:6]
_BLENDS = OPERATIONS[6:10]
_LARGEST_MAGNITUDE = 30


def randaugment(key: jax.Array, images: jax.Array, magnitude: int) -> jax.Array:
    """Changes every image by two operations, drawn anew for each.

    Args:
      key: random key.
      images: pixels in [0, 255] as floats, shape ``(batch, height, width, 3)``.
      magnitude: strength of all operations, 0 to 30.

    Returns:
      Array like ``images``, of whole numbers.

    References:
      Cubuk et al., `RandAugment: Practical automated data augmentation with a reduced
      search space <https://arxiv.org/abs/1909.13719>`_, NeurIPS 2020
    """
    images = jnp.round(images)
    for round_key in jax.random.split(key):
        operation_key, sign_key = jax.random.split(round_key)
        batch = images.shape[:1]
        operation = jax.random.randint(operation_key, batch, 0, len(OPERATIONS))
        sign = jax.random.rademacher(sign_key, batch, images.dtype)
        images = jax.vmap(apply_operation, in_axes=(0, 0, None, 0))(
            images, operation, magnitude, sign
        )
    return images


def apply_operation(
    image: jax.Array, operation: jax.Array, magnitude: int, sign: jax.Array
) -> jax.Array:
    """One operation on one image.

    Args:
      image: whole numbers in [0, 255] as floats, shape ``(height, width, 3)``.
      operation: index into ``OPERATIONS``.
      magnitude: its strength, 0 to 30.
      sign: 1 or -1: left or right, up or down, more or less, where there is such.

    Returns:
      Array like ``image``.
    """
    picked = dict(
        zip(OPERATIONS, operation == jnp.arange(len(OPERATIONS)), strict=True)
    )
    share = magnitude / _LARGEST_MAGNITUDE
    warped = _warp(picked, image, share * sign)
    blended = _blend(picked, image, 1 + 0.9 * share * sign)
    results = dict.fromkeys(_GEOMETRIC, warped) | dict.fromkeys(_BLENDS, blended)
    results |= {
        "posterize": _posterize(image, dropped_bits=round(4 * share)),
        "solarize": jnp.where(image < 255 - 255 * share, image, 255 - image),
        "autocontrast": _autocontrast(image),
        "equalize": _equalize(image),
    }
    conditions = [picked[name] for name in results]
    return jnp.select(conditions, list(results.values()), default=image)


def _warp(picked, image, strength):
    """Takes every pixel from the nearest one of where it was; black beyond the edge."""
    height, width, _ = image.shape
    rows, columns = jnp.arange(height)[:, None] + 0.5, jnp.arange(width)[None] + 0.5
    up, left = rows - height / 2, columns - width / 2
    angle = picked["rotate"] * -jnp.deg2rad(30.0) * strength
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    furthest = 150 / 331 * strength
    from_rows = (
        cosine * up
        - sine * left
        + height / 2
        + picked["shear_y"] * 0.3 * strength * columns
        - picked["translate_y"] * jnp.trunc(furthest * height)
    )
    from_columns = (
        cosine * left
        + sine * up
        + width / 2
        + picked["shear_x"] * 0.3 * strength * rows
        - picked["translate_x"] * jnp.trunc(furthest * width)
    )
    from_rows = jnp.floor(from_rows).astype(jnp.int32)
    from_columns = jnp.floor(from_columns).astype(jnp.int32)
    return image.at[from_rows, from_columns].get(
        mode="fill", fill_value=0, wrap_negative_indices=False
    )


def _blend(picked, image, factor):
    """Away from what the image would be without colour, say, or towards it."""
    grey = _grey(image)
    mean = jnp.floor(jnp.mean(grey) + 0.5)
    without = jnp.select(
        [picked["color"], picked["contrast"], picked["sharpness"]],
        [
            jnp.broadcast_to(grey, image.shape),
            jnp.full_like(image, mean),
            _smooth(image),
        ],
        default=jnp.zeros_like(image),
    )
    return jnp.floor(jnp.clip(without + factor * (image - without), 0, 255))


def _grey(image):
    """Brightness to the eye, in fixed point, shape ``(height, width, 1)``."""
    weights = jnp.array([[[19595, 38470, 7471]]])
    fixed = jnp.sum(image.astype(jnp.int32) * weights, axis=-1, keepdims=True)
    return ((fixed + 0x8000) >> 16).astype(image.dtype)


def _smooth(image):
    """Weighted means of three by three pixels; those at the edge stay."""
    height, width, _ = image.shape
    total = 4 * image[1:-1, 1:-1]
    for row in range(3):
        for column in range(3):
            total += image[row : height - 2 + row, column : width - 2 + column]
    return image.at[1:-1, 1:-1].set(jnp.floor(total / 13 + 0.5))


def _posterize(image, dropped_bits):
    step = 2**dropped_bits
    return jnp.floor(image / step) * step


def _autocontrast(image):
    """Stretches each channel to the whole range."""
    low = jnp.min(image, axis=(0, 1), keepdims=True)
    span = jnp.max(image, axis=(0, 1), keepdims=True) - low
    stretched = jnp.floor((image - low) * 255 / jnp.maximum(span, 1))
    return jnp.where(span > 0, stretched, image)


def _equalize(image):
    """Makes all values of a channel about equally frequent."""

    def equalize(channel):
        values = channel.astype(jnp.int32)
        counts = jnp.zeros(256, jnp.int32).at[values].add(1)
        below = jnp.cumsum(counts) - counts
        step = (values.size - counts[jnp.max(values)]) // 255
        table = jnp.clip((step // 2 + below) // jnp.maximum(step, 1), 0, 255)
        return jnp.where(step > 0, table[values].astype(channel.dtype), channel)

    return jax.vmap(equalize, in_axes=-1, out_axes=-1)(image)
