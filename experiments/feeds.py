"""How data reach the devices: sets in memory lie there, large sets stream in."""

from collections.abc import Iterator
from typing import Any, Protocol

import jax
from jax.sharding import Mesh

from experiments import sharding
from experiments.config import Config
from experiments.data.dataset import Dataset, Source, Split
from experiments.parts import part_batches
from experiments.trainer import Trainer, scan_is_fast

# Steps of one device loop: between two the host can save the state and stop.
_STEPS_IN_LOOP = 100


class Feed(Protocol):
    """The data of a run."""

    def epoch(self, step: int) -> Iterator[tuple[Any, int]]:
        """The rest of the epoch that ``step`` is in: inputs, and steps to make."""
        ...

    def batches(self, part: Split | Source) -> Iterator[tuple[jax.Array, ...]]:
        """A whole part, as ``(images, labels, real)``."""
        ...

    def close(self) -> None:
        """Ends what reads ahead."""
        ...


def make_feed(
    config: Config,
    dataset: Dataset,
    trainer: Trainer,
    mesh: Mesh,
    key: jax.Array,
    workers: int,
) -> Feed:
    """The feed that suits the size of the images."""
    if config.in_memory:
        return MemoryFeed(config, dataset, trainer, mesh, key)
    return StreamFeed(config, dataset, trainer, mesh, workers)


class MemoryFeed:
    """A set that lies on every device whole; a step picks its rows."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        trainer: Trainer,
        mesh: Mesh,
        key: jax.Array,
    ):
        self._config, self._trainer = config, trainer
        self._mesh, self._key = mesh, key
        self._train = jax.device_put(dataset.train, sharding.replicated(mesh))

    def epoch(self, step):
        epoch, done = divmod(step, self._trainer.steps_per_epoch)
        inputs = self._train, self._trainer.order(self._key, epoch)
        stride = _STEPS_IN_LOOP if scan_is_fast() else 1
        for start in range(done, self._trainer.steps_per_epoch, stride):
            yield inputs, min(stride, self._trainer.steps_per_epoch - start)

    def batches(self, part):
        return part_batches(self._config, part, self._mesh, workers=0)

    def close(self):
        pass


class StreamFeed:
    """A set on disk; every host reads its share of every batch, ahead of time."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        trainer: Trainer,
        mesh: Mesh,
        workers: int,
    ):
        self._config, self._dataset = config, dataset
        self._trainer, self._mesh, self._workers = trainer, mesh, workers
        self._stream, self._position = None, -1

    def epoch(self, step):
        if self._stream is None or self._position != step:
            self._open(step)
        steps = self._trainer.steps_per_epoch
        for _ in range(steps - step % steps):
            inputs = sharding.local_rows(next(self._stream), self._mesh)
            self._position += 1
            yield inputs, 1

    def batches(self, part):
        return part_batches(self._config, part, self._mesh, self._workers)

    def close(self):
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _open(self, step):
        from experiments.data.stream import train_batches

        self.close()
        self._stream = train_batches(
            self._dataset.train,
            seed=self._config.seed,
            batch_size=self._trainer.batch_size,
            image_size=self._config.image_size,
            jitter=self._config.augment == "resized_crop_jitter",
            start_step=step,
            workers=self._workers,
            shard=jax.process_index(),
            num_shards=jax.process_count(),
        )
        self._position = step
