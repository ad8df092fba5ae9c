"""Batches of images that are too large for memory, read while the network trains.

Nothing here has a state. The order of an epoch is a function of the seed and the epoch,
what happens to an image is a function of the seed and its place in that endless
sequence, and batch k is a stretch of it. So a run is resumed by its step alone, and
neither the number of workers nor that of shards changes what is learned from.
"""

import functools
import sys

import numpy as np

from experiments.config import Interpolation
from experiments.data.dataset import Source
from experiments.data.images.decode import decode_rgb, resize_and_crop
from experiments.data.images.host_crop import color_jitter, random_resized_crop
from experiments.data.prefetch import Batches
from experiments.errors import UserError

# Images that travel together from a worker: few enough that it soon hears that it
# should stop, enough that the way costs little. A batch is made of such chunks.
_LARGEST_CHUNK = 16


def train_batches(
    source: Source,
    *,
    seed: int,
    batch_size: int,
    image_size: int,
    interpolation: Interpolation,
    jitter: bool,
    start_step: int,
    workers: int,
    shard: int = 0,
    num_shards: int = 1,
) -> Batches:
    """Endless batches to train with, the images cropped, flipped and resized by chance.

    Every epoch has an order of its own. What does not fill a batch is left out for this
    epoch; the next one shuffles anew.

    Args:
      source: the training set.
      seed: of the order and of what happens to the images.
      batch_size: examples of a batch, all shards together.
      image_size: side of the images, in pixels.
      interpolation: between pixels.
      jitter: whether brightness, contrast and saturation change too.
      start_step: number of the first batch; to resume a run, the steps it has made.
      workers: processes that read; with 0 threads of this process do.
      shard: which chunk of every batch is wanted, in ``[0, num_shards)``.
      num_shards: chunks that a batch is cut into, one after the other.

    Returns:
      ``(images, labels)``: uint8, ``(local_batch, image_size, image_size, 3)``, and
      int32, ``(local_batch,)``, where ``local_batch = batch_size / num_shards``.

    Raises:
      UserError: if a batch is larger than the set or cannot be cut into equal shards;
        and, from the batches, if an image is damaged.
    """
    size = len(source)
    if batch_size > size:
        raise UserError(
            f"--batch-size must be at most the number of training images, {size}, got "
            f"{batch_size}."
        )
    # Runs whose seeds are neighbours must not be neighbours: grain goes from epoch to
    # epoch by adding one to the seed.
    of_order, of_images = np.random.SeedSequence(seed).generate_state(2).tolist()
    load = functools.partial(_train_example, source, image_size, interpolation, jitter)
    examples = (
        import_grain()
        .MapDataset.range(size)
        .shuffle(of_order)
        .slice(slice(size // batch_size * batch_size))
        .repeat()
        .random_map(load, seed=of_images)
    )
    steps = range(start_step, sys.maxsize // batch_size)
    return _batches(examples, steps, batch_size, workers, shard, num_shards)


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    resize: int,
    interpolation: Interpolation,
    workers: int,
    shard: int = 0,
    num_shards: int = 1,
) -> Batches:
    """The whole set once, in its order, so that what is summed over it is exact.

    Args:
      source: the set.
      batch_size: examples of a batch, all shards together.
      image_size: side of the middle square that is seen, in pixels.
      resize: pixels of the shorter side before that, at least ``image_size``.
      interpolation: between pixels.
      workers: processes that read; with 0 threads of this process do.
      shard: which chunk of every batch is wanted, in ``[0, num_shards)``.
      num_shards: chunks that a batch is cut into, one after the other.

    Returns:
      ``(images, labels, real)``: as :func:`train_batches`, and bools, false where an
      example is only padding, ``(local_batch,)``. All shards have equally many batches
      of one shape.

    Raises:
      UserError: if a batch cannot be cut into equal shards; and, from the batches, if
        an image is damaged.
    """
    steps = range(-(-len(source) // batch_size))
    load = functools.partial(_eval_example, source, image_size, resize, interpolation)
    examples = import_grain().MapDataset.range(len(steps) * batch_size).map(load)
    return _batches(examples, steps, batch_size, workers, shard, num_shards)


def _train_example(source, image_size, interpolation, jitter, index, rng):
    image = decode_rgb(source[index], source.name(index), upright=source.upright)
    image = random_resized_crop(image, image_size, interpolation, rng)
    if jitter:
        image = color_jitter(image, rng)
    return np.asarray(image), source.labels[index]


def _eval_example(source, image_size, resize, interpolation, index):
    if index >= len(source):
        padding = np.zeros((image_size, image_size, 3), np.uint8)
        return padding, np.int32(0), np.False_
    image = decode_rgb(source[index], source.name(index), upright=source.upright)
    pixels = resize_and_crop(image, resize, image_size, interpolation)
    return pixels, source.labels[index], np.True_


def _batches(examples, steps, batch_size, workers, shard, num_shards):
    """From examples in the order of the batches to the batches of one shard."""
    local_batch, rest = divmod(batch_size, num_shards)
    if rest:
        raise UserError(
            f"--batch-size must be a multiple of the {num_shards} processes that share "
            f"it, got {batch_size}."
        )
    chunk_size = max(
        size for size in range(1, _LARGEST_CHUNK + 1) if local_batch % size == 0
    )
    per_batch = local_batch // chunk_size
    make_chunk = functools.partial(
        _chunk_of_shard, examples.batch(chunk_size), per_batch, shard, num_shards
    )
    chunks = range(steps.start * per_batch, steps.stop * per_batch)
    return Batches(make_chunk, chunks, per_batch, workers)


def _chunk_of_shard(chunks, per_batch, shard, num_shards, index):
    step, chunk = divmod(index, per_batch)
    return chunks[(step * num_shards + shard) * per_batch + chunk]


def import_grain():
    """The module grain, or a sentence on how to get it."""
    try:
        import grain
    except ImportError as error:
        raise UserError(
            "Streaming images needs grain: pip install -e '.[experiments,data]'."
        ) from error
    return grain
