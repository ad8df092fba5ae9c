"""A network's per-class losses on its training set, for sharpness measures.

They are the training criterion in evaluation mode, on images preprocessed as those of
the test split.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import chex
import jax.numpy as jnp
import numpy as np

import focal_sam_jax as fsam
from experiments.config import Config
from experiments.data.dataset import Dataset
from experiments.data.feed import EvalBatch
from experiments.models import make_model
from experiments.training.criterion import make_loss
from experiments.training.evaluate import eval_logits


def network_losses(
    config: Config,
    dataset: Dataset,
    frozen: chex.ArrayTree,
    batch_stats: chex.ArrayTree,
    read: Callable[[], Iterator[EvalBatch]],
    measured: np.ndarray | None = None,
) -> fsam.sharpness.ClassLosses:
    r"""Returns :math:`L_c = \frac{1}{N} \sum_{j: y_j = c} \ell_j` of the training set.

    If only :math:`m_c` of a class's :math:`n_c` images are measured,
    :math:`L_c = \frac{n_c}{N m_c} \sum_j \ell_j`, which is the same on average. Divided
    by a class's share of the set, :math:`L_c` is the mean over its images. Runs with
    the same network and criterion share compiled functions.

    Args:
      config: configuration of the run.
      dataset: gives counts and normalisation, not the images.
      frozen: the network's frozen weights.
      batch_stats: its BatchNorm statistics.
      read: begins to read the training set, as ``(images, labels, real)``. A set in
        memory is read once, another set for every pass.
      measured: :math:`m_c`, if only a part is read.
    """
    counts, channels = dataset.class_counts, len(dataset.mean)
    measured = counts if measured is None else measured
    around = (
        batch_stats,
        frozen,
        *map(jnp.asarray, (counts, measured, dataset.mean, dataset.std)),
    )
    batches = _Batches(around, read)
    losses = _class_losses(_what_matters(config), len(counts), channels)
    return losses.over(list(batches) if config.in_memory else batches)


def class_shares(class_counts: np.ndarray) -> np.ndarray:
    """Returns each class's share of the set, ``(num_classes,)``; NaN if it is empty."""
    shares = np.asarray(class_counts, float) / np.sum(class_counts)
    return np.where(shares > 0, shares, np.nan)


class _Batches:
    """The loss function's arguments after the parameters; iterable many times."""

    def __init__(
        self, around: tuple[Any, ...], read: Callable[[], Iterator[EvalBatch]]
    ):
        self._around, self._read = around, read

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return ((*self._around, *batch) for batch in self._read())


@lru_cache(maxsize=8)
def _class_losses(
    config: Config, num_classes: int, channels: int
) -> fsam.sharpness.ClassLosses:
    model = make_model(config, num_classes, channels)

    def per_class_loss(
        params, batch_stats, frozen, class_counts, measured, mean, std, *batch
    ):
        images, labels, real = batch
        network = params, batch_stats
        logits = eval_logits(config, model, network, frozen, images, mean, std)
        # The criterion as it was in the last step.
        loss = make_loss(config, class_counts)
        losses = loss(logits, labels, jnp.asarray(config.epochs - 1))
        means = fsam.per_class_losses(losses, labels, num_classes, where=real)
        shares = class_counts / jnp.maximum(measured, 1) / jnp.sum(class_counts)
        return means * jnp.sum(real) * shares

    return fsam.sharpness.class_losses(per_class_loss)


def _what_matters(config: Config) -> Config:
    """Returns ``config`` without options that do not affect the loss function."""
    zeros = ("seed", "subset_seed", "weight_decay", "rho", "gamma", "lam", "alpha")
    zeros += ("tail_threshold", "head_rho", "switch_epoch")
    return config.replace(
        **dict.fromkeys(zeros, 0),
        config="",
        method="sgd",
        perturbed="all",
        approximation="none",
        learning_rate=1.0,
        # Only deferred re-weighting depends on epochs.
        epochs=1 if config.drw_start is None else config.epochs,
    )
