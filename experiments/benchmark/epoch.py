"""A whole epoch of CIFAR-100-LT: data order, images, augmentation and steps."""

from pathlib import Path

import jax
import numpy as np

from experiments import devices
from experiments.benchmark.contestant import Contestant
from experiments.benchmark.workload import Method, Workload, step_name
from experiments.config import Config
from experiments.data.dataset import Dataset, Split
from experiments.data.feed import make_feed
from experiments.data.load import load_dataset
from experiments.data.longtail import exponential_counts
from experiments.errors import UserError
from experiments.randomness import random_key
from experiments.training.trainer import make_trainer

_CLASSES, _LARGEST, _FACTOR = 100, 500, 100.0


def epoch_config(workload: Workload, method: Method) -> Config:
    """Returns the recipe with the workload's network, batch size and precision."""
    return workload.config(method).replace(augment="crop_flip")


def cifar100_lt(config: Config, data_dir: Path) -> tuple[Dataset, bool]:
    """Returns the data, and whether they are real; if not, they are random pixels."""
    try:
        return load_dataset(config, data_dir), True
    except UserError:
        return synthetic(exponential_counts(_CLASSES, _LARGEST, _FACTOR)), False


def synthetic(class_counts: np.ndarray) -> Dataset:
    """Returns images of 32x32x3 random pixels, with the given class counts."""
    labels = np.repeat(np.arange(len(class_counts), dtype=np.int32), class_counts)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
    train = Split(images, labels)
    names = tuple(map(str, range(len(class_counts))))
    half = np.full(3, 127.5, np.float32)
    return Dataset(train, None, train, class_counts, names, half, half)


def jax_epoch(workload: Workload, method: Method, dataset: Dataset) -> Contestant:
    """Returns an epoch of the experiments; images and labels are on the device."""
    config, mesh = epoch_config(workload, method), devices.device_mesh(1)
    key = random_key(0, mesh)
    device_loop = devices.loops_are_fast()
    feed = make_feed(config, dataset, mesh, key, device_loop=device_loop)
    steps = feed.steps_per_epoch
    trainer = make_trainer(config, dataset, mesh, steps, device_loop=device_loop)
    state, step = trainer.init(jax.random.key(0)), 0

    def run(turns):
        nonlocal state, step
        for _ in range(turns):
            for inputs, number in feed.epoch(step):
                state = trainer.advance(state, inputs, key, number)
            step += steps
        jax.block_until_ready(state)

    name = step_name("jax", workload, method)
    return Contestant(name, run, {"steps": steps})
