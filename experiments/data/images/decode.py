"""From encoded images to pixels."""

import functools
import io
import struct
import warnings
import zlib
from contextlib import contextmanager

import numpy as np

from experiments.config import Interpolation
from experiments.errors import UserError


@functools.cache
def import_pillow():
    """Pillow's ``Image`` module, or a sentence on how to get it."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError(
            "Reading images needs Pillow: pip install -e '.[experiments,data]'."
        ) from error
    # Some of ImageNet's EXIF data are broken, and nothing here depends on them.
    warnings.filterwarnings(
        "ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin"
    )
    return Image


# What Pillow calls the formats of pictures; it knows others, of films and documents.
_KINDS = "AVIF BMP DIB GIF JPEG JPEG2000 PCX PNG PPM QOI TGA TIFF WEBP".split()


@functools.cache
def image_endings() -> tuple[str, ...]:
    """The endings of files that can be read as images, ``.jpg``, say."""
    pillow = import_pillow()
    endings = pillow.registered_extensions().items()
    readable = (end for end, kind in endings if kind in _KINDS and kind in pillow.OPEN)
    return tuple(sorted(readable))


def pillow_filter(interpolation: Interpolation):
    """Pillow's name of an interpolation; both look at all pixels that fall into one."""
    return import_pillow().Resampling[interpolation.upper()]


def decode_rgb(encoded: bytes, name: str, *, upright: bool):
    """The image in three channels of 8 bits, whatever the file holds.

    Grey values are repeated, palettes looked up, transparency is dropped and of 16 bits
    the upper 8 are kept.

    Args:
      encoded: what the file holds, JPEG or PNG, say.
      name: of the image, for the message.
      upright: turn it as its EXIF orientation says, or leave it as it is stored.

    Returns:
      A ``PIL.Image.Image`` of mode RGB.

    Raises:
      UserError: if the image is damaged, cut short, or no image.
    """
    with _damage_explained(name) as pillow:
        image = pillow.open(io.BytesIO(encoded))
        return _to_rgb(_turned(image) if upright else image)


def image_size(encoded: bytes, name: str) -> tuple[int, int]:
    """Width and height in pixels, by the header alone.

    Args:
      encoded: what the file holds.
      name: of the image, for the message.

    Raises:
      UserError: if it is no image.
    """
    with _damage_explained(name) as pillow:
        return pillow.open(io.BytesIO(encoded)).size


def image_size_of_file(path: str) -> tuple[int, int]:
    """The same of a file, of which no more is read than that.

    Raises:
      UserError: if it is no image, or cannot be opened.
    """
    with _damage_explained(path) as pillow, pillow.open(path) as image:
        return image.size


def largest_of_16_bits(encoded: bytes, name: str) -> int | None:
    """The largest value of an image of 16 bits; ``None`` if it has others.

    Raises:
      UserError: if it is no image.
    """
    with _damage_explained(name) as pillow:
        image = pillow.open(io.BytesIO(encoded))
        return int(np.max(image)) if image.mode.startswith("I") else None


@contextmanager
def _damage_explained(name: str):
    """Pillow's ``Image``; what it raises over the image ``name`` is a ``UserError``."""
    pillow = import_pillow()
    # What Pillow's readers raise where the bytes make no sense.
    damage = (
        OSError,
        SyntaxError,
        ValueError,
        LookupError,
        EOFError,
        struct.error,
        zlib.error,
        pillow.DecompressionBombError,
    )
    try:
        yield pillow
    except damage as error:
        # Where Pillow knows no better, it names the object that it was given.
        unknown = isinstance(error, pillow.UnidentifiedImageError)
        reason = "it is of no kind that Pillow knows" if unknown else error
        raise UserError(
            f"{name} cannot be read as an image ({reason}): replace the file, or leave "
            "it out of the data set."
        ) from error


def _turned(image):
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # EXIF data that make no sense turn nothing.
        return image


def _to_rgb(image):
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.int64) >> 8
        grey = pixels.clip(0, 255).astype(np.uint8)
        return import_pillow().fromarray(grey).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB Pillow warns
    return image.convert("RGB")


def resize_to(image, size: int, interpolation: Interpolation) -> np.ndarray:
    """The middle square of an image, ``size`` pixels a side.

    The shorter side becomes ``size``, by interpolation over all pixels that fall into
    one. An image of that very size is not touched.

    Args:
      image: a ``PIL.Image.Image`` of mode RGB.
      size: side in pixels.
      interpolation: between pixels.

    Returns:
      uint8 array, shape ``(size, size, 3)``.
    """
    return resize_and_crop(image, size, size, interpolation)


def resize_and_crop(
    image, resize: int, size: int, interpolation: Interpolation
) -> np.ndarray:
    """Makes the shorter side ``resize`` and cuts out the middle.

    Args:
      image: a ``PIL.Image.Image`` of mode RGB.
      resize: pixels of the shorter side, at least ``size``.
      size: side of the middle square, in pixels.
      interpolation: between pixels.

    Returns:
      uint8 array, shape ``(size, size, 3)``.
    """
    width, height = image.size
    shorter = min(width, height)
    if shorter != resize:
        width, height = (resize * side // shorter for side in image.size)
        image = image.resize((width, height), pillow_filter(interpolation))
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))
