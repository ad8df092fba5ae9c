"""Types of data sets, in memory or on disk."""

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np


class Source(Protocol):
    """Encoded images with labels; any index can be read from any process.

    Instances can be pickled. They open files at the first read, and read one image file
    or record at a time.

    Attributes:
      labels: class labels, int32, shape ``(size,)``.
      upright: whether images are rotated as their EXIF orientation says. Published
        results were made with images as they are stored.
    """

    labels: np.ndarray
    upright: bool

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> bytes:
        """Returns the encoded image, such as JPEG or PNG."""
        ...

    def name(self, index: int) -> str:
        """Returns the origin of the image, for messages."""
        ...

    def key(self, index: int) -> str:
        """Returns a unique key of the image, independent of the folder of the data.

        Absolute paths in lists are part of their keys.
        """
        ...


class Split(NamedTuple):
    """Images in memory and their labels.

    Attributes:
      images: uint8 pixels, shape ``(size, height, width, channels)``.
      labels: class labels, int32, shape ``(size,)``.
    """

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """A long-tailed training set with splits to evaluate on.

    The three splits are all in memory or all on disk.

    Attributes:
      train: training split.
      validation: split for choices such as tuning, not for reported numbers; ``None``
        if there is none.
      test: split that reported numbers come from.
      class_counts: training examples of each class, int, ``(num_classes,)``.
      class_names: name of each class.
      mean: mean pixel value of each channel, ``(channels,)``, to be subtracted.
      std: standard deviation of each channel, ``(channels,)``, to divide by.
      notes: notes to the user on how the data were read, one sentence each.
      train_hash: hash of the training images and their order.
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


def normalised(
    images: jax.Array, mean: jax.typing.ArrayLike, std: jax.typing.ArrayLike
) -> jax.Array:
    """Computes ``(images - mean) / std`` per channel, float32.

    Args:
      images: pixels of any dtype, channels last.
      mean: mean of each channel, ``(channels,)``.
      std: standard deviation of each channel, ``(channels,)``.
    """
    shape = (1,) * (images.ndim - 1) + (-1,)
    mean, std = jnp.reshape(mean, shape), jnp.reshape(std, shape)
    return (images.astype(jnp.float32) - mean) / std
