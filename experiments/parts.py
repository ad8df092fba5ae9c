"""Whole parts of the data, batch by batch, as they are judged."""

from collections.abc import Iterator

import jax
from jax.sharding import Mesh

from experiments import sharding
from experiments.config import Config
from experiments.data.batches import evaluation_batch_size, padded_batches
from experiments.data.dataset import Source, Split

_STREAMED_BATCH_SIZE = 128
# Pixels of a batch in memory once it is resized, 128 images of 224 by 224.
_LARGEST_BATCH = 128 * 224**2


def part_batches(
    config: Config, part: Split | Source, mesh: Mesh, workers: int
) -> Iterator[tuple[jax.Array, ...]]:
    """A part in its order, once.

    Args:
      config: its sizes matter.
      part: in memory or on disk, as the configuration says.
      mesh: the devices, which share every batch.
      workers: processes that read.

    Yields:
      Images as they are stored, labels, and whether they are real or padding.
    """
    if config.in_memory:
        fitting = max(_LARGEST_BATCH // config.judged_size**2, 1)
        size = evaluation_batch_size(min(len(part.labels), fitting), mesh.size)
        for batch in padded_batches(part, size):
            yield jax.device_put(batch, sharding.by_example(mesh))
        return
    from experiments.data.stream import eval_batches

    size = _STREAMED_BATCH_SIZE + -_STREAMED_BATCH_SIZE % mesh.size
    resize = config.test_resize or round(config.image_size * 256 / 224)
    batches = eval_batches(
        part,
        batch_size=size,
        image_size=config.judged_size,
        resize=max(resize, config.judged_size),
        workers=workers,
        shard=jax.process_index(),
        num_shards=jax.process_count(),
    )
    with batches:
        for batch in batches:
            yield sharding.local_rows(batch, mesh)
