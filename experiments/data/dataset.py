"""What a data set is, in memory or on disk."""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Source(Protocol):
    """Encoded images with their classes, at any index, from any process.

    An instance can be pickled, opens what it reads when it first reads it, and its
    image files or records are read one at a time.

    Attributes:
      labels: int32, shape ``(size,)``.
      upright: whether images are turned as their EXIF orientation says. Published
        results were made with images as they are stored.
    """

    labels: np.ndarray
    upright: bool

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> bytes:
        """The encoded image, JPEG or PNG, say."""
        ...

    def name(self, index: int) -> str:
        """Where the image is from, for messages."""
        ...

    def key(self, index: int) -> str:
        """What tells the image from all others, wherever the data lie."""
        ...


class Split(NamedTuple):
    """Images in memory and their classes.

    Attributes:
      images: uint8 pixels, shape ``(size, height, width, channels)``.
      labels: int32, shape ``(size,)``.
    """

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """A long-tailed training set with splits to evaluate on.

    The three splits are all in memory or all on disk.

    Attributes:
      train: what is learned from.
      validation: what choices are made by, and no reported number uses; ``None`` where
        nothing was set aside.
      test: what is reported.
      class_counts: training examples of each class, int, ``(num_classes,)``.
      class_names: a name for each class.
      mean: of the pixel values of each channel, ``(channels,)``, to be subtracted.
      std: their standard deviation, to be divided by.
      notes: what the user should know of how the data were read, a sentence each.
      train_hash: the same for two training splits of the same images in one order.
    """

    train: Split | Source
    validation: Split | Source | None
    test: Split | Source
    class_counts: np.ndarray
    class_names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    notes: tuple[str, ...] = ()
    train_hash: str = ""

    def normalised(self, images: jax.Array) -> jax.Array:
        """What a network sees: pixels minus the mean over the deviation, float32.

        Args:
          images: pixels of any dtype, the channels last.
        """
        return normalised(images, self.mean, self.std)


def normalised(
    images: jax.Array, mean: jax.typing.ArrayLike, std: jax.typing.ArrayLike
) -> jax.Array:
    """Pixels minus the mean over the deviation of their channel, float32.

    Args:
      images: pixels of any dtype, the channels last.
      mean: of each channel, ``(channels,)``.
      std: of each channel, ``(channels,)``.
    """
    shape = (1,) * (images.ndim - 1) + (-1,)
    mean, std = jnp.reshape(mean, shape), jnp.reshape(std, shape)
    return (images.astype(jnp.float32) - mean) / std
