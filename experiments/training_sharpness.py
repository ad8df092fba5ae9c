"""How sharp the loss of every class is while a network trains."""

from typing import Any

import jax
import numpy as np

import focal_sam_jax as fsam
from experiments.config import Config
from experiments.data.dataset import Dataset
from experiments.errors import UserError
from experiments.evaluation import shots
from experiments.feeds import Feed
from experiments.metrics import SHOTS
from experiments.network_losses import class_shares, network_losses
from experiments.step import TrainState
from experiments.trainer import Trainer

# The same for all methods, so that their runs compare.
RADIUS = 0.05


def check_sharpness(config: Config) -> None:
    """Refuses to measure on several hosts, where the loops of the host would part."""
    if config.sharpness_every and jax.process_count() > 1:
        raise UserError(
            "--sharpness-every measures on one host, and there are "
            f"{jax.process_count()} processes: pass --sharpness-every 0, and measure "
            "the finished run by experiments.analyze."
        )


def sharpness_row(
    config: Config, dataset: Dataset, trainer: Trainer, feed: Feed, state: TrainState
) -> dict[str, Any]:
    """Mean loss of the training set and first-order sharpness of its classes, as JSON.

    The sharpness of a class is that of the mean loss of its own images, in a ball of
    radius :data:`RADIUS`; that of a group the mean over its classes.
    """
    params, batch_stats = state.evaluated
    losses = network_losses(
        config,
        dataset,
        trainer.frozen,
        batch_stats,
        lambda: feed.batches(dataset.train),
    )
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
    """The mean over the classes of every group; ``None`` where it has no class."""
    chosen = {shot: of_class[(groups == shot) & ~np.isnan(of_class)] for shot in SHOTS}
    return {shot: float(x.mean()) if len(x) else None for shot, x in chosen.items()}


def known(number: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(number) else float(number)
