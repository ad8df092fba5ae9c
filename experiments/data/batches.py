"""Cutting sets in memory into batches of one fixed shape."""

from collections.abc import Iterator

import jax
import numpy as np

from experiments.data.dataset import Split

_EVALUATION_BATCH_SIZE = 512


def batches_per_epoch(size: int, batch_size: int) -> int:
    """Full batches in a set; at least one."""
    return max(size // batch_size, 1)


def fitting_batch_size(size: int, batch_size: int, devices: int) -> int:
    """The batch size for a set that may be smaller; the devices share it evenly."""
    return batch_size if batch_size <= size else max(size // devices, 1) * devices


def evaluation_batch_size(size: int, devices: int = 1) -> int:
    """The batch size to evaluate a set in memory with; the devices share it evenly."""
    batch_size = min(_EVALUATION_BATCH_SIZE, size)
    return batch_size + -batch_size % devices


def shuffled_batches(
    key: jax.Array, epoch: jax.typing.ArrayLike, size: int, batch_size: int
) -> jax.Array:
    """The order of one epoch: a function of the key and the epoch alone.

    What does not fill a batch is left out for this epoch; the next one shuffles anew.

    Args:
      key: random key.
      epoch: number of the epoch.
      size: examples in the set, at least ``batch_size``.
      batch_size: examples in a batch.

    Returns:
      Indices into the set, int array of shape ``(batches, batch_size)``.
    """
    order = jax.random.permutation(jax.random.fold_in(key, epoch), size)
    batches = batches_per_epoch(size, batch_size)
    return order[: batches * batch_size].reshape(batches, batch_size)


def padded_batches(
    split: Split, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The whole set in its order, the last batch filled up.

    Yields:
      Images ``(batch_size, height, width, channels)``, labels ``(batch_size,)``, and
      ``(batch_size,)`` bools that are false where an example is only padding.
    """
    size = len(split.labels)
    for start in range(0, size, batch_size):
        rows = np.arange(start, start + batch_size)
        real = rows < size
        # The padding is the last example over again.
        rows = np.minimum(rows, size - 1)
        yield split.images[rows], split.labels[rows], real
