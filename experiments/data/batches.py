"""Cutting sets in memory into batches of one fixed shape."""

from collections.abc import Iterator

import jax
import numpy as np

from experiments.data.dataset import Split
from experiments.errors import UserError
from experiments.randomness import ORDER, stream

_EVAL_BATCH_SIZE = 512


def epoch_sizes(size: int, batch_size: int, devices: int) -> tuple[int, int]:
    """Examples in a step, and steps in an epoch, of a set that may be small.

    The devices share a batch evenly.

    Args:
      size: examples in the set.
      batch_size: that is wanted, a multiple of ``devices``.
      devices: how many there are.

    Raises:
      UserError: if there are fewer examples than devices.
    """
    if size < devices:
        raise UserError(
            f"{devices} devices cannot share {size} training images: pass --devices "
            f"{size}, or less."
        )
    if batch_size > size:
        batch_size = size // devices * devices
    return batch_size, size // batch_size


def eval_batch_size(size: int, devices: int = 1) -> int:
    """The batch size to evaluate a set in memory with; the devices share it evenly."""
    batch_size = min(_EVAL_BATCH_SIZE, size)
    return batch_size + -batch_size % devices


def shuffled_batches(
    key: jax.Array, epoch: jax.typing.ArrayLike, size: int, batch_size: int
) -> jax.Array:
    """The order of one epoch: a function of the key and the epoch alone.

    What does not fill a batch is left out for this epoch; the next one shuffles anew.

    Args:
      key: random key of the run.
      epoch: number of the epoch.
      size: examples in the set, at least ``batch_size``.
      batch_size: examples in a batch.

    Returns:
      Indices into the set, int array of shape ``(batches, batch_size)``.
    """
    key = jax.random.fold_in(stream(key, ORDER), epoch)
    order = jax.random.permutation(key, size)
    return order[: size // batch_size * batch_size].reshape(-1, batch_size)


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
