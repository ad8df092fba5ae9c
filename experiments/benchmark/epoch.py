"""A whole epoch of CIFAR-100-LT: order, pixels, augmentation and every step."""

from pathlib import Path

import jax
import numpy as np

from experiments import sharding
from experiments.benchmark.contestant import Contestant
from experiments.benchmark.workload import Method, Workload, step_name
from experiments.config import Config
from experiments.data.dataset import Dataset, Split
from experiments.data.load import load_dataset
from experiments.data.longtail import exponential_counts
from experiments.errors import UserError
from experiments.trainer import make_trainer

_CLASSES, _LARGEST, _FACTOR = 100, 500, 100.0


def epoch_config(workload: Workload, method: Method) -> Config:
    """The recipe, but for network, batch size and precision."""
    return workload.config(method).replace(augment="crop_flip")


def cifar100_lt(config: Config, data_dir: Path) -> tuple[Dataset, bool]:
    """The training set, and whether it is real: else it is noise of the same size."""
    try:
        return load_dataset(config, data_dir), True
    except UserError:
        return synthetic(exponential_counts(_CLASSES, _LARGEST, _FACTOR)), False


def synthetic(class_counts: np.ndarray) -> Dataset:
    """Images of 32x32x3 random pixels, so many of each class; nothing to judge by."""
    labels = np.repeat(np.arange(len(class_counts), dtype=np.int32), class_counts)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
    train = Split(images, labels)
    names = tuple(map(str, range(len(class_counts))))
    half = np.full(3, 127.5, np.float32)
    return Dataset(train, None, train, class_counts, names, half, half)


def jax_epoch(workload: Workload, method: Method, dataset: Dataset) -> Contestant:
    """The experiments' own epoch; images and labels lie on the device."""
    mesh = sharding.device_mesh(1)
    trainer = make_trainer(epoch_config(workload, method), dataset, mesh)
    train = jax.device_put(dataset.train, sharding.replicated(mesh))
    key = sharding.random_key(0, mesh)
    state, epoch = trainer.init(jax.random.key(0)), 0

    def run(turns):
        nonlocal state, epoch
        for _ in range(turns):
            inputs = train, trainer.order(key, epoch)
            state = trainer.advance(state, inputs, key, trainer.steps_per_epoch)
            epoch += 1
        jax.block_until_ready(state)

    name = step_name("jax", workload, method)
    return Contestant(name, run, {"steps": trainer.steps_per_epoch})
