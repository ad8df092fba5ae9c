"""Subsampling a data set to a long tail, and splitting off a held-out set."""

import numpy as np

from experiments.errors import UserError


def exponential_counts(
    num_classes: int, largest: int, imbalance_factor: float
) -> np.ndarray:
    r"""Returns class counts that fall exponentially.

    .. math::
      n_c = \lfloor n_0 \, \mathrm{IF}^{-c / (C - 1)} \rfloor

    Args:
      num_classes: number of classes :math:`C`, at least 2.
      largest: :math:`n_0`, examples of class 0.
      imbalance_factor: :math:`\mathrm{IF} = n_0 / n_{C-1}`, at least 1.

    Returns:
      Int array of shape ``(num_classes,)``.

    Raises:
      UserError: if the tail would have classes without examples.

    References:
      Cui et al., `Class-Balanced Loss Based on Effective Number of Samples
      <https://arxiv.org/abs/1901.05555>`_, CVPR 2019, section 5.1
    """
    _check_tail(largest, imbalance_factor)
    rank = np.arange(num_classes) / (num_classes - 1)
    counts = (largest * (1.0 / imbalance_factor) ** rank).astype(int)
    # 49 * (1 / 49) is a little less than 1.
    return np.maximum(counts, 1)


def step_counts(num_classes: int, largest: int, imbalance_factor: float) -> np.ndarray:
    r"""Returns class counts that are large in the first half and small in the rest.

    Args:
      num_classes: :math:`C`, at least 2; the first :math:`\lfloor C/2 \rfloor` classes
        are the frequent ones.
      largest: :math:`n_0`, examples of a frequent class.
      imbalance_factor: :math:`\mathrm{IF}`, at least 1; a rare class keeps
        :math:`\lfloor n_0 / \mathrm{IF} \rfloor` examples.

    Returns:
      Int array of shape ``(num_classes,)``.

    Raises:
      UserError: if the rare classes would have no examples.

    References:
      Buda et al., `A systematic study of the class imbalance problem in convolutional
      neural networks <https://arxiv.org/abs/1710.05381>`_, 2018, section 3.2
    """
    _check_tail(largest, imbalance_factor)
    rare = max(int(largest * (1.0 / imbalance_factor)), 1)
    counts = np.full(num_classes, largest)
    counts[num_classes // 2 :] = rare
    return counts


def _check_tail(largest: int, imbalance_factor: float) -> None:
    if imbalance_factor > largest:
        raise UserError(
            f"--imbalance-factor {imbalance_factor:g} leaves no example of the rarest "
            f"class: with {largest} examples in the largest class, it can be at most "
            f"{largest}."
        )


# Functions for the class counts, by value of --imbalance; `natural` keeps all examples.
TAILS = {"exp": exponential_counts, "step": step_counts}


def take_per_class(
    labels: np.ndarray,
    counts: np.ndarray,
    rng: np.random.Generator | np.random.RandomState,
) -> np.ndarray:
    """Draws ``counts[c]`` random examples of every class c: indices sorted by class."""
    chosen = [
        rng.permutation(np.flatnonzero(labels == c))[:count]
        for c, count in enumerate(counts)
    ]
    return np.concatenate(chosen)


def published_subset(labels: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Draws ``counts[c]`` examples of every class c, as published code does.

    NumPy's legacy generator, seeded once, shuffles the ascending indices of each class
    in place, class by class, and the first ``counts[c]`` are kept. Code that calls
    ``np.random.seed(seed)`` and ``np.random.shuffle`` in this way keeps the same
    indices in the same order. NumPy's global generator is not changed.

    Args:
      labels: int array, shape ``(size,)``.
      counts: examples to keep, ints, shape ``(num_classes,)``; no class may have fewer.
      seed: random seed; 0 in published code.

    Returns:
      Indices, int array of shape ``(counts.sum(),)``, sorted by class.

    References:
      Cao et al., `Learning Imbalanced Datasets with Label-Distribution-Aware Margin
      Loss <https://arxiv.org/abs/1906.07413>`_, NeurIPS 2019
    """
    return take_per_class(labels, counts, np.random.RandomState(seed))


def hold_out(
    labels: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Splits off a random share of every class.

    The number of held-out examples per class is rounded; it is at least one and never
    all. A class with a single example keeps it.

    Args:
      labels: int array, shape ``(size,)``.
      share: share to hold out, in (0, 1).
      rng: random generator that draws the examples.

    Returns:
      Indices that stay and indices held out, each in ascending order.
    """
    aside = np.zeros(len(labels), bool)
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        aside[rng.permutation(members)[:count]] = True
    return np.flatnonzero(~aside), np.flatnonzero(aside)
