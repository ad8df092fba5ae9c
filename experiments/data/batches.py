"""Cutting sets into batches of one fixed shape."""

from typing import NamedTuple

import jax
import numpy as np

from experiments.data.dataset import Split


def batches_per_epoch(size: int, batch_size: int) -> int:
    """Full batches in a set; at least one."""
    return max(size // batch_size, 1)


def shuffled_batches(
    key: jax.Array, epoch: jax.typing.ArrayLike, size: int, batch_size: int
) -> jax.Array:
    """The order of one epoch: a function of the key and the epoch alone.

    What does not fill a batch is left out for this epoch; the next one shuffles anew.

    Args:
      key: random key.
      epoch: number of the epoch.
      size: examples in the set.
      batch_size: examples in a batch; a smaller set is one batch of all it has.

    Returns:
      Indices into the set, int array of shape ``(batches, min(batch_size, size))``.
    """
    batch_size = min(batch_size, size)
    order = jax.random.permutation(jax.random.fold_in(key, epoch), size)
    batches = batches_per_epoch(size, batch_size)
    return order[: batches * batch_size].reshape(batches, batch_size)


class PaddedBatches(NamedTuple):
    """A set in batches of one shape, the last one filled up.

    Attributes:
      images: shape ``(batches, batch_size, height, width, channels)``.
      labels: shape ``(batches, batch_size)``.
      real: false where an example is only padding, bools, ``(batches, batch_size)``.
    """

    images: np.ndarray
    labels: np.ndarray
    real: np.ndarray


def padded_batches(split: Split, batch_size: int) -> PaddedBatches:
    """The whole set in its order, so that what is summed over it is exact."""
    size = len(split.labels)
    batches = -(-size // batch_size)
    missing = batches * batch_size - size

    def cut(array):
        padding = np.zeros((missing, *array.shape[1:]), array.dtype)
        padded = np.concatenate([array, padding])
        return padded.reshape(batches, batch_size, *array.shape[1:])

    real = np.arange(batches * batch_size) < size
    return PaddedBatches(
        cut(split.images), cut(split.labels), real.reshape(batches, batch_size)
    )
