"""Sharpness of the loss of every class during training."""

from collections.abc import Callable, Iterator
from typing import Any

import chex
import jax
import numpy as np

import focal_sam_jax as fsam
from experiments.config import Config
from experiments.data.dataset import Dataset
from experiments.data.feed import EvalBatch
from experiments.errors import UserError
from experiments.metrics import SHOTS
from experiments.sharpness.losses import class_shares, network_losses
from experiments.training.evaluate import shots

# The same for all methods, so that runs are comparable.
RADIUS = 0.05


def check_sharpness(config: Config) -> None:
    """Raises a ``UserError`` on several hosts, whose host loops would diverge."""
    if config.sharpness_every and jax.process_count() > 1:
        raise UserError(
            f"--sharpness-every needs a single process, got {jax.process_count()}: "
            "pass --sharpness-every 0, and measure the finished run with "
            "experiments.analyze."
        )


def sharpness_row(
    config: Config,
    dataset: Dataset,
    network: tuple[chex.ArrayTree, chex.ArrayTree],
    frozen: chex.ArrayTree,
    read: Callable[[], Iterator[EvalBatch]],
) -> dict[str, Any]:
    """Computes the mean training loss and first-order class sharpness, as JSON.

    The sharpness of a class is that of the mean loss of its own images, in a ball of
    radius :data:`RADIUS`. The sharpness of a group is the mean over its classes.

    Args:
      config: configuration of the run.
      dataset: gives counts and normalisation, not the images.
      network: parameters and BatchNorm statistics.
      frozen: the network's frozen weights.
      read: begins to read the training set.
    """
    params, batch_stats = network
    losses = network_losses(config, dataset, frozen, batch_stats, read)
    rises = fsam.sharpness.class_sharpness(losses, params, RADIUS)
    sharpness = np.asarray(rises) / class_shares(dataset.class_counts)
    return {
        "loss": float(np.sum(losses.values(params))),
        "rho": RADIUS,
        **{
            f"sharpness_{shot}": number
            for shot, number in by_shot(
                sharpness, shots(dataset.class_counts, config)
            ).items()
        },
        "sharpness_per_class": [known(number) for number in sharpness],
    }


def by_shot(of_class: np.ndarray, groups: np.ndarray) -> dict[str, float | None]:
    """Computes the mean over each group's classes; ``None`` if it has no class."""
    chosen = {shot: of_class[(groups == shot) & ~np.isnan(of_class)] for shot in SHOTS}
    return {shot: float(x.mean()) if len(x) else None for shot, x in chosen.items()}


def known(number: float) -> float | None:
    """Returns the number; ``None`` for NaN, which JSON lacks."""
    return None if np.isnan(number) else float(number)
