"""One tiny run of Digits-LT for all tests of training, so that it is compiled once."""

from contextlib import nullcontext
from unittest.mock import patch

import jax
from rich.console import Console

from experiments import devices
from experiments.configs import get_config
from experiments.data.feed import make_feed
from experiments.data.load import load_dataset
from experiments.randomness import random_key
from experiments.train import parse, run
from experiments.training.trainer import make_trainer

TINY = {"width": 2, "batch_size": 128}
FLAGS = ("--width", "2", "--batch-size", "128", "--devices", "1")
ONE = devices.device_mesh(1)


def tiny(method="focal_sam", loss=None, **changes):
    """A configuration and its data."""
    config = get_config("digits_lt", method, loss).replace(**TINY | changes)
    return config, load_dataset(config, None)


def make(config, dataset, *, mesh=ONE, seed=0, device_loop=False, split_state=False):
    """A trainer, the feed of its data, and the random key of both."""
    key = random_key(seed, mesh)
    feed = make_feed(config, dataset, mesh, key, device_loop=device_loop)
    trainer = make_trainer(
        config,
        dataset,
        mesh,
        feed.steps_per_epoch,
        device_loop=device_loop,
        split_state=split_state,
    )
    return trainer, feed, key


def train(trainer, feed, key, *, epochs=1, seed=0):
    """Returns the state after ``epochs`` epochs."""
    state = trainer.init(jax.random.key(seed))
    for epoch in range(epochs):
        for inputs, steps in feed.epoch(epoch * feed.steps_per_epoch):
            state = trainer.advance(state, inputs, key, steps)
    return state


def run_train(run_dir, *options, draws=False):
    """Runs the command in this process; returns what it said. Figures take long."""
    console = Console(record=True, width=500)
    with nullcontext() if draws else patch("experiments.train._draw"):
        run(parse([*map(str, options), "--run-dir", str(run_dir)]), console)
    return console.export_text()
