"""Class weights against imbalance, which the losses take."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from focal_sam_jax._checks import ClassValues
from focal_sam_jax._loss_checks import check_number, check_per_class


def class_balanced_weights(
    class_counts: ClassValues, beta: ArrayLike = 0.9999
) -> jax.Array:
    r"""Class weights from the effective number of examples.

    .. math:: w_c \propto (1 - \beta) / (1 - \beta^{n_c}), \quad \sum_c w_c = C

    Args:
      class_counts: :math:`n`, shape ``(num_classes,)``; an empty class counts as one
        example.
      beta: scalar in ``[0, 1)``; zero gives ones, and towards one the weights become
        inversely proportional to the counts.

    Returns:
      Weights, floats of shape ``(num_classes,)`` with mean one.

    Raises:
      ValueError, TypeError: if an argument is not as above.

    Example:
      >>> head, tail = class_balanced_weights([5000, 50])
      >>> bool(head < 1 < tail)
      True

    References:
      Cui et al., Class-Balanced Loss, CVPR 2019, arXiv:1901.05555
    """
    check_number("beta", beta, lambda b: 0 <= b < 1, "in [0, 1)")
    counts = jnp.maximum(check_per_class("class_counts", class_counts), 1)
    # 1 - beta before any rounding to float32; 1 - beta ** n would lose its digits.
    weights = -1 / jnp.expm1(counts * jnp.log1p(-(1 - beta)))
    return weights * (weights.size / weights.sum())


def deferred_weights(
    class_counts: ClassValues,
    epoch: ArrayLike,
    *,
    start_epoch: ArrayLike = 160,
    beta: ArrayLike = 0.9999,
) -> jax.Array:
    r"""Deferred re-weighting (DRW): class-balanced weights for the last epochs only.

    Args:
      class_counts: :math:`n`, shape ``(num_classes,)``; an empty class counts as one
        example.
      epoch: the epoch counted from zero, scalar >= 0; if it is traced, the change of
        weights compiles nothing.
      start_epoch: first epoch with class-balanced weights, scalar >= 0.
      beta: as for :func:`class_balanced_weights`.

    Returns:
      Ones before ``start_epoch``, from then on :func:`class_balanced_weights`; floats
      of shape ``(num_classes,)``.

    Raises:
      ValueError, TypeError: if an argument is not as above.

    Example:
      >>> deferred_weights([5000, 50], epoch=159).tolist()
      [1.0, 1.0]

    References:
      Cao et al., LDAM and Deferred Re-weighting, NeurIPS 2019, arXiv:1906.07413
    """
    check_number("epoch", epoch, lambda e: e >= 0, ">= 0")
    check_number("start_epoch", start_epoch, lambda e: e >= 0, ">= 0")
    weights = class_balanced_weights(class_counts, beta)
    return jnp.where(jnp.less(epoch, start_epoch), jnp.ones_like(weights), weights)
