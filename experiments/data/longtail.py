"""Cutting a long tail out of a data set, and setting a share of it aside."""

import numpy as np

from experiments.errors import UserError


def exponential_counts(
    num_classes: int, largest: int, imbalance_factor: float
) -> np.ndarray:
    r"""Examples to keep of each class, falling exponentially.

    .. math::
      n_c = \lfloor n_0 \, \mathrm{IF}^{-c / (C - 1)} \rfloor

    Args:
      num_classes: :math:`C`, at least 2.
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
    r"""Examples to keep of each class, many of the first half and few of the rest.

    Args:
      num_classes: :math:`C`, at least 2; the first :math:`\lfloor C/2 \rfloor` classes
        are the frequent ones.
      largest: :math:`n_0`, examples of a frequent class.
      imbalance_factor: :math:`\mathrm{IF}`, at least 1; of a rare class
        :math:`\lfloor n_0 / \mathrm{IF} \rfloor` are kept.

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
            f"class: with {largest} of the largest it can be at most {largest}."
        )


# How much of each class is left, by the name of --imbalance; `natural` cuts nothing.
TAILS = {"exp": exponential_counts, "step": step_counts}


def take_per_class(
    labels: np.ndarray, counts: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Indices of ``counts[c]`` random examples of every class c, sorted by class."""
    chosen = [
        rng.permutation(np.flatnonzero(labels == c))[:count]
        for c, count in enumerate(counts)
    ]
    return np.concatenate(chosen)


def published_subset(labels: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Indices of ``counts[c]`` examples of every class c, drawn as in published code.

    NumPy's legacy random stream, seeded once, shuffles the rising list of each class's
    indices in place, classes in order; the first ``counts[c]`` are kept. So code that
    calls ``np.random.seed(seed)`` and ``np.random.shuffle`` keeps the same indices in
    the same order. NumPy's global generator is left alone.

    Args:
      labels: int array, shape ``(size,)``.
      counts: examples to keep, ints, shape ``(num_classes,)``; no class may have fewer.
      seed: 0 in published code.

    Returns:
      Int array of shape ``(counts.sum(),)``, sorted by class.

    References:
      Cao et al., `Learning Imbalanced Datasets with Label-Distribution-Aware Margin
      Loss <https://arxiv.org/abs/1906.07413>`_, NeurIPS 2019
    """
    stream = np.random.RandomState(seed)
    chosen = []
    for c, count in enumerate(counts):
        indices = np.flatnonzero(labels == c)
        stream.shuffle(indices)
        chosen.append(indices[:count])
    return np.concatenate(chosen)


def hold_out(
    labels: np.ndarray, share: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Divides a set in two, class by class.

    Of every class the share, rounded, is set aside: at least one example and never all.
    A class with a single example keeps it.

    Args:
      labels: int array, shape ``(size,)``.
      share: to set aside, in (0, 1).
      rng: draws which.

    Returns:
      Indices that stay and indices set aside; each in rising order, together all.
    """
    aside = np.zeros(len(labels), bool)
    for c in np.unique(labels):
        members = np.flatnonzero(labels == c)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        aside[rng.permutation(members)[:count]] = True
    return np.flatnonzero(~aside), np.flatnonzero(aside)
