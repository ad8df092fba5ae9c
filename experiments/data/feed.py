"""Transfer of batches to the devices.

Training sets in memory have a copy on every device. Large sets stream from disk.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from experiments import devices
from experiments.config import Config
from experiments.data.batches import (
    epoch_sizes,
    eval_batch_size,
    padded_batches,
    shuffled_batches,
)
from experiments.data.dataset import Dataset, Source, Split
from experiments.data.stream import eval_batches, import_grain, train_batches

# Steps of one device loop; between two, the host can save the state and stop.
_STEPS_IN_LOOP = 100
_STREAMED_BATCH_SIZE = 128
# Pixels of the largest evaluation batch in memory after resizing: 128 images of 224².
_LARGEST_BATCH = 128 * 224**2

# Images as they are stored, labels, and bools that are false for padding.
EvalBatch = tuple[jax.Array, jax.Array, jax.Array]


class EpochInMemory(NamedTuple):
    """All batches of an epoch.

    Attributes:
      split: training set, with arrays on the devices.
      order: indices of the examples of each batch, int, ``(steps_per_epoch,
        batch_size)``.
    """

    split: Split
    order: jax.Array

    def batch(self, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns images and labels of a step, counted from the start of the run."""
        chosen = self.order[step % len(self.order)]
        return self.split.images[chosen], self.split.labels[chosen]


class StreamedBatch(NamedTuple):
    """The batch of one step."""

    images: jax.Array
    labels: jax.Array

    def batch(self, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the images and labels, whatever the step."""
        return self.images, self.labels


Inputs = EpochInMemory | StreamedBatch


class Feed:
    """The data of a run.

    Attributes:
      batch_size: examples per step, over all devices.
      steps_per_epoch: steps in an epoch.
    """

    def __init__(self, config: Config, dataset: Dataset, mesh: Mesh, workers: int = 0):
        self._config, self._mesh, self._workers = config, mesh, workers
        self.batch_size, self.steps_per_epoch = epoch_sizes(
            len(dataset.train.labels), config.batch_size, mesh.size
        )

    def epoch(self, step: int) -> Iterator[tuple[Inputs, int]]:
        """Yields inputs, and steps to run on them, for the rest of the epoch."""
        raise NotImplementedError

    def whole(self, split: Split | Source) -> Iterator[EvalBatch]:
        """Yields a whole split in its order, once."""
        return whole_split(self._config, split, self._mesh, self._workers)

    def close(self) -> None:
        """Stops the background readers, if there are any."""


def make_feed(
    config: Config,
    dataset: Dataset,
    mesh: Mesh,
    key: jax.Array,
    *,
    workers: int = 0,
    device_loop: bool = False,
) -> Feed:
    """Creates the feed that suits the size of the images.

    Args:
      config: configuration of the run.
      dataset: data of the run.
      mesh: devices; each takes an equal share of every batch.
      key: random key of the run, for the order of a set in memory.
      workers: processes that read images from disk.
      device_loop: whether one call runs many steps on a set in memory.

    Raises:
      UserError: if the devices cannot share a batch evenly.
    """
    devices.check_batch_size(config.batch_size, mesh)
    if config.in_memory:
        return _MemoryFeed(config, dataset, mesh, key, device_loop)
    return _StreamFeed(config, dataset, mesh, workers)


class _MemoryFeed(Feed):
    """A feed of a set with a copy on every device; each step indexes its batch."""

    def __init__(self, config, dataset, mesh, key, device_loop):
        super().__init__(config, dataset, mesh)
        self._key = key
        self._steps_in_call = _STEPS_IN_LOOP if device_loop else 1
        whole = devices.replicated(mesh)
        self._train = jax.device_put(dataset.train, whole)
        self._order = jax.jit(
            shuffled_batches, static_argnums=(2, 3), out_shardings=whole
        )

    def epoch(self, step):
        epoch, done = divmod(step, self.steps_per_epoch)
        size = len(self._train.labels)
        order = self._order(self._key, epoch, size, self.batch_size)
        for start in range(done, self.steps_per_epoch, self._steps_in_call):
            steps = min(self._steps_in_call, self.steps_per_epoch - start)
            yield EpochInMemory(self._train, order), steps


class _StreamFeed(Feed):
    """A feed of a set on disk; every process prefetches its share of every batch."""

    def __init__(self, config, dataset, mesh, workers):
        import_grain()  # raises before anything is compiled
        super().__init__(config, dataset, mesh, workers)
        self._source = dataset.train
        self._stream, self._position = None, -1

    def epoch(self, step):
        if self._stream is None or self._position != step:
            self._open(step)
        for _ in range(self.steps_per_epoch - step % self.steps_per_epoch):
            batch = devices.local_rows(next(self._stream), self._mesh)
            self._position += 1
            yield StreamedBatch(*batch), 1

    def close(self):
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _open(self, step):
        self.close()
        self._stream = train_batches(
            self._source,
            seed=self._config.seed,
            batch_size=self.batch_size,
            image_size=self._config.image_size,
            interpolation=self._config.interpolation,
            jitter=self._config.augment == "resized_crop_jitter",
            start_step=step,
            workers=self._workers,
            shard=jax.process_index(),
            num_shards=jax.process_count(),
        )
        self._position = step


def whole_split(
    config: Config, split: Split | Source, mesh: Mesh, workers: int = 0
) -> Iterator[EvalBatch]:
    """Yields the batches of a split in its order, once.

    Args:
      config: configuration with image sizes and interpolation.
      split: split in memory or on disk, as the configuration says.
      mesh: devices that share every batch.
      workers: processes that read from disk.
    """
    if config.in_memory:
        fitting = max(_LARGEST_BATCH // config.network_size**2, 1)
        size = eval_batch_size(min(len(split.labels), fitting), mesh.size)
        for batch in padded_batches(split, size):
            yield jax.device_put(batch, devices.by_example(mesh))
        return
    size = _STREAMED_BATCH_SIZE + -_STREAMED_BATCH_SIZE % mesh.size
    batches = eval_batches(
        split,
        batch_size=size,
        image_size=config.image_size,
        resize=config.eval_resize,
        interpolation=config.interpolation,
        workers=workers,
        shard=jax.process_index(),
        num_shards=jax.process_count(),
    )
    with batches:
        for batch in batches:
            yield devices.local_rows(batch, mesh)
