"""Decoding and resizing of images with Pillow."""

import functools
import io
import warnings
from contextlib import contextmanager

import numpy as np

from experiments.config import Interpolation
from experiments.errors import UserError, import_package


@functools.cache
def import_pillow():
    """Returns Pillow's ``Image`` module."""
    import_package("PIL", "Reading images", "data")
    from PIL import Image

    # Some of ImageNet's EXIF data are invalid, which has no effect here.
    warnings.filterwarnings(
        "ignore", category=UserWarning, module=r"PIL\.TiffImagePlugin"
    )
    return Image


# Pillow's names of the image formats; it also reads formats of films and documents.
_KINDS = "AVIF BMP DIB GIF JPEG JPEG2000 PCX PNG PPM QOI TGA TIFF WEBP".split()


@functools.cache
def image_endings() -> tuple[str, ...]:
    """Returns the extensions of files that can be read as images, such as ``.jpg``."""
    pillow = import_pillow()
    endings = pillow.registered_extensions().items()
    readable = (end for end, kind in endings if kind in _KINDS and kind in pillow.OPEN)
    return tuple(sorted(readable))


def pillow_filter(interpolation: Interpolation):
    """Returns Pillow's filter of an interpolation; both filters are antialiased."""
    return import_pillow().Resampling[interpolation.upper()]


def decode_rgb(encoded: bytes, name: str, *, upright: bool):
    """Decodes an image of any format to three channels of 8 bits.

    Grey values are repeated, palettes are looked up, transparency is dropped, and of 16
    bits the upper 8 are kept.

    Args:
      encoded: content of the file, such as JPEG or PNG.
      name: name of the image, for the message.
      upright: whether to rotate the image as its EXIF orientation says.

    Returns:
      A ``PIL.Image.Image`` of mode RGB.

    Raises:
      UserError: if the image is damaged, truncated, of floating-point numbers, or not
        an image.
    """
    with _damage_explained(name) as pillow:
        image = pillow.open(io.BytesIO(encoded))
        return _to_rgb(_turned(image) if upright else image)


def image_size(encoded: bytes, name: str) -> tuple[int, int]:
    """Reads width and height in pixels from the header.

    Args:
      encoded: content of the file.
      name: name of the image, for the message.

    Raises:
      UserError: if it is not an image.
    """
    with _damage_explained(name) as pillow:
        return pillow.open(io.BytesIO(encoded)).size


def check_image_file(path: str) -> None:
    """Decodes an image file; JPEG at an eighth of its size, which is faster.

    Raises:
      UserError: if :func:`decode_rgb` would raise it, or it cannot be opened.
    """
    with _damage_explained(path) as pillow, pillow.open(path) as image:
        image.draft(None, (1, 1))
        _check_mode(image)
        image.load()


def largest_of_16_bits(encoded: bytes, name: str) -> int | None:
    """Returns the largest value of a 16-bit image, ``None`` for other images.

    Raises:
      UserError: if it is not an image.
    """
    with _damage_explained(name) as pillow:
        image = pillow.open(io.BytesIO(encoded))
        return int(np.max(image)) if image.mode.startswith("I") else None


@contextmanager
def _damage_explained(name: str):
    """Yields Pillow's ``Image``; turns its errors on image ``name`` into UserError."""
    pillow = import_pillow()
    try:
        yield pillow
    except Exception as error:  # Pillow's readers raise many types for invalid bytes.
        # For an unknown format Pillow's own message only names the BytesIO object.
        unknown = isinstance(error, pillow.UnidentifiedImageError)
        reason = "its format is unknown to Pillow" if unknown else error
        raise UserError(
            f"{name} cannot be read as an image ({reason}): replace the file, or leave "
            "it out of the data set."
        ) from error


def _turned(image):
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # With invalid EXIF data the image is not rotated.
        return image


def _check_mode(image):
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")


def _to_rgb(image):
    _check_mode(image)
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.int64) >> 8
        grey = pixels.clip(0, 255).astype(np.uint8)
        return import_pillow().fromarray(grey).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns if converted directly to RGB
    return image.convert("RGB")


def resize_and_crop(
    image, resize: int, size: int, interpolation: Interpolation
) -> np.ndarray:
    """Resizes the shorter side to ``resize`` and crops the central square.

    The filter is antialiased. An image of exactly this size is not changed.

    Args:
      image: a ``PIL.Image.Image`` of mode RGB.
      resize: shorter side after resizing, in pixels, at least ``size``.
      size: side of the central square, in pixels.
      interpolation: interpolation of the resizing.

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
