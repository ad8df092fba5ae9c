"""Cutting a long tail out of a data set."""

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
    rank = np.arange(num_classes) / (num_classes - 1)
    counts = (largest * (1.0 / imbalance_factor) ** rank).astype(int)
    if counts[-1] < 1:
        raise UserError(
            f"--imbalance-factor {imbalance_factor:g} leaves no example of the rarest "
            f"class: with {largest} of the largest it can be at most {largest}."
        )
    return counts


def take_per_class(
    labels: np.ndarray, counts: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Indices of ``counts[c]`` random examples of every class c, sorted by class."""
    chosen = [
        rng.permutation(np.flatnonzero(labels == c))[:count]
        for c, count in enumerate(counts)
    ]
    return np.concatenate(chosen)
