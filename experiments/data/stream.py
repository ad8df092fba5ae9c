"""Batches of data sets that are too large for memory, read while the network trains.

A batch depends on nothing but its number. The order of an epoch depends only on the
seed and the epoch, and the augmentation of an image only on the seed and its position
in the sequence of all epochs. Batch k is a slice of that sequence. So the step is
enough to resume a run, and the numbers of workers and shards do not change the training
data.
"""

import functools
import sys

import numpy as np

from experiments.config import Interpolation
from experiments.data.dataset import Source
from experiments.data.images.decode import decode_rgb, resize_and_crop
from experiments.data.images.host_crop import color_jitter, random_resized_crop
from experiments.data.prefetch import Batches
from experiments.errors import UserError, import_package

# Images that a worker returns together; batches consist of such chunks. Small chunks
# let a worker stop soon, large ones reduce the cost of the transfer.
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
    """Returns endless training batches of randomly cropped, resized and flipped images.

    Every epoch has its own random order. Examples that do not fill a last batch are
    left out of that epoch.

    Args:
      source: training set.
      seed: seed of the order and of the augmentation.
      batch_size: number of examples in a batch, over all shards.
      image_size: side of the returned images, in pixels.
      interpolation: interpolation of the resizing.
      jitter: whether brightness, contrast and saturation change too.
      start_step: number of the first batch; to resume a run, its number of steps.
      workers: number of processes that read; 0 uses threads of this process.
      shard: index of the shard to return, in ``[0, num_shards)``.
      num_shards: number of consecutive parts that every batch is split into.

    Returns:
      ``(images, labels)``: uint8, ``(local_batch, image_size, image_size, 3)``, and
      int32, ``(local_batch,)``, where ``local_batch = batch_size / num_shards``.

    Raises:
      UserError: if a batch is larger than the set or cannot be split into equal shards;
        while iterating, if an image is damaged.
    """
    size = len(source)
    if batch_size > size:
        raise UserError(
            f"--batch-size must be at most the number of training images, {size}, got "
            f"{batch_size}."
        )
    # SeedSequence makes runs with consecutive seeds independent: grain shuffles each
    # epoch with the seed plus the number of the epoch.
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
    """Returns batches of the whole set in its order, each example exactly once.

    Args:
      source: data set to evaluate.
      batch_size: number of examples in a batch, over all shards.
      image_size: side of the central square that is cropped, in pixels.
      resize: shorter side before the crop, in pixels, at least ``image_size``.
      interpolation: interpolation of the resizing.
      workers: number of processes that read; 0 uses threads of this process.
      shard: index of the shard to return, in ``[0, num_shards)``.
      num_shards: number of consecutive parts that every batch is split into.

    Returns:
      ``(images, labels, real)``: as :func:`train_batches`, and bools of shape
      ``(local_batch,)`` that are false where an example is only padding. All shards
      have the same number of batches, of one shape.

    Raises:
      UserError: if a batch cannot be split into equal shards; while iterating, if an
        image is damaged.
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
    """Returns the batches of one shard from the examples in batch order."""
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
    """Returns the module grain."""
    return import_package("grain", "Streaming images", "data")
