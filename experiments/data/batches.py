"""Batches of one fixed shape from data sets in memory."""

from collections.abc import Iterator

import jax
import numpy as np

from experiments.data.dataset import Split
from experiments.errors import UserError
from experiments.randomness import ORDER, stream

_EVAL_BATCH_SIZE = 512


def epoch_sizes(size: int, batch_size: int, devices: int) -> tuple[int, int]:
    """Returns the batch size and the steps per epoch, for a set that may be small.

    The devices share a batch evenly.

    Args:
      size: number of examples in the set.
      batch_size: requested batch size, a multiple of ``devices``.
      devices: number of devices.

    Raises:
      UserError: if there are fewer examples than devices.
    """
    if size < devices:
        raise UserError(
            f"{devices} devices cannot share {size} training images: pass --devices "
            f"{size}, or fewer."
        )
    if batch_size > size:
        batch_size = size // devices * devices
    return batch_size, size // batch_size


def eval_batch_size(size: int, devices: int = 1) -> int:
    """Returns the batch size for evaluation in memory, a multiple of ``devices``."""
    batch_size = min(_EVAL_BATCH_SIZE, size)
    return batch_size + -batch_size % devices


def shuffled_batches(
    key: jax.Array, epoch: jax.typing.ArrayLike, size: int, batch_size: int
) -> jax.Array:
    """Returns the order of one epoch, which depends only on the key and the epoch.

    Examples that do not fill a last batch are left out of this epoch.

    Args:
      key: random key of the run.
      epoch: number of the epoch.
      size: number of examples in the set, at least ``batch_size``.
      batch_size: number of examples in a batch.

    Returns:
      Indices into the set, int array of shape ``(batches, batch_size)``.
    """
    key = jax.random.fold_in(stream(key, ORDER), epoch)
    order = jax.random.permutation(key, size)
    return order[: size // batch_size * batch_size].reshape(-1, batch_size)


def padded_batches(
    split: Split, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields the whole set in its order; the last batch is padded.

    Yields:
      Images ``(batch_size, height, width, channels)``, labels ``(batch_size,)``, and
      ``(batch_size,)`` bools that are false where an example is only padding.
    """
    size = len(split.labels)
    for start in range(0, size, batch_size):
        rows = np.arange(start, start + batch_size)
        real = rows < size
        # The padding repeats the last example.
        rows = np.minimum(rows, size - 1)
        yield split.images[rows], split.labels[rows], real
