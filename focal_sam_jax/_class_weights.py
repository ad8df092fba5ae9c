"""Class weights from class counts, and per-class losses from per-example losses."""

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from focal_sam_jax._checks import (
    ClassValues,
    as_class_values,
    at_least_float32,
    check_class_counts,
    check_per_class,
    check_per_example,
    check_scalar,
)


def class_priors(class_counts: ClassValues) -> jax.Array:
    r"""Computes the share of every class in the training set.

    .. math::
      \pi_c = n_c / \sum_k n_k

    Args:
      class_counts: number of training examples of each class, ints or floats, shape
        ``(num_classes,)``.

    Returns:
      :math:`\pi`, float array of shape ``(num_classes,)``, summing to one.

    Raises:
      ValueError: if the counts are not 1-D, empty, negative, not finite, or all in one
        class.
      TypeError: if the counts are not numbers.

    Example:
      >>> import focal_sam_jax as fsam
      >>> float(fsam.class_priors([30, 10]).sum())
      1.0
    """
    counts = _checked(class_counts)
    return counts / counts.sum()


def focal_weights(class_counts: ClassValues, gamma: chex.Numeric) -> jax.Array:
    r"""Computes the class weights of Focal-SAM, which are larger for rarer classes.

    .. math::
      s_c = (1 - \pi_c)^\gamma

    Args:
      class_counts: number of training examples of each class, shape ``(num_classes,)``.
      gamma: focusing exponent, a scalar >= 0. Zero gives all classes weight one;
        Focal-SAM with ``lam=1`` is then SAM.

    Returns:
      :math:`s`, float array of shape ``(num_classes,)`` with values in ``[0, 1]``.

    Raises:
      ValueError: if the counts are not 1-D, empty, negative, not finite, or all in one
        class, or if ``gamma`` is negative or not finite.
      TypeError: if the counts or ``gamma`` are not numbers.

    Example:
      >>> import focal_sam_jax as fsam
      >>> head, tail = fsam.focal_weights([90, 10], gamma=2.0)
      >>> bool(head < tail < 1)
      True

    References:
      Li et al., `Focal-SAM: Focal Sharpness-Aware Minimization for Long-Tailed
      Classification <https://arxiv.org/abs/2505.01660>`_, ICML 2025
    """
    counts = _checked(class_counts)
    check_scalar("gamma", gamma)
    total = counts.sum()
    # (N - n_c) / N avoids the cancellation in 1 - n_c / N for a dominant class.
    return ((total - counts) / total) ** gamma


def tail_weights(class_counts: ClassValues, threshold: chex.Numeric) -> jax.Array:
    r"""Computes the class weights of ImbSAM: one for tail classes, zero for others.

    .. math::
      s_c = \mathbf{1}[n_c < \text{threshold}]

    Args:
      class_counts: number of training examples of each class, shape ``(num_classes,)``.
      threshold: a class is a tail class if it has strictly fewer examples, scalar >= 0.

    Returns:
      :math:`s`, float array of shape ``(num_classes,)`` of zeros and ones.

    Raises:
      ValueError: if the counts are not 1-D, empty, negative, not finite, or all in one
        class, or if ``threshold`` is negative or not finite.
      TypeError: if the counts or ``threshold`` are not numbers.

    Example:
      >>> import focal_sam_jax as fsam
      >>> fsam.tail_weights([100, 20, 5], threshold=20).tolist()
      [0.0, 0.0, 1.0]

    References:
      Zhou et al., `ImbSAM: A Closer Look at Sharpness-Aware Minimization in
      Class-Imbalanced Recognition <https://arxiv.org/abs/2308.07815>`_, ICCV 2023
    """
    counts = _checked(class_counts)
    check_scalar("threshold", threshold)
    return (counts < threshold).astype(counts.dtype)


def cc_sam_radii(class_counts: ClassValues, rho: chex.Numeric) -> jax.Array:
    r"""Computes the perturbation radii of CC-SAM, which are larger for rarer classes.

    .. math::
      \rho_c = \rho \left(\frac{\min_k m_k}{m_c}\right)^{1/4}, \qquad
      m_c = \max(n_c - 1, 1)

    The fourth root of :math:`n_c - 1` is the published dependence on the count. The
    maximum avoids a division by zero at :math:`n_c = 1`. The published radius has
    further factors that are the same for all classes or depend on gradient norms. Here
    :math:`\rho`, the radius of the rarest class, replaces them. It is comparable with
    the radius of :func:`focal_sam_jax.sam`.

    Args:
      class_counts: number of training examples of each class, shape ``(num_classes,)``.
        A single class is accepted and has the radius ``rho``.
      rho: radius of the rarest class, a scalar >= 0.

    Returns:
      :math:`\rho_c`, float array of shape ``(num_classes,)``.

    Raises:
      ValueError: if the counts are not 1-D, empty, negative, not finite, or all in one
        of several classes, or if ``rho`` is negative or not finite.
      TypeError: if the counts or ``rho`` are not numbers.

    Example:
      >>> import focal_sam_jax as fsam
      >>> fsam.cc_sam_radii([17, 2, 1], rho=0.5).tolist()
      [0.25, 0.5, 0.5]

    References:
      Zhou et al., Class-Conditional Sharpness-Aware Minimization for Deep Long-Tailed
      Recognition, CVPR 2023
    """
    counts = _checked(class_counts, allow_single_class=True)
    check_scalar("rho", rho)
    others = jnp.maximum(counts - 1, 1)
    return jnp.asarray(rho) * (others.min() / others) ** 0.25


def per_class_losses(
    losses: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Sums the losses of a batch per class.

    .. math::
      L_c = \frac{1}{B} \sum_{j:\, y_j = c} \ell_j
      \qquad\text{or, with soft labels } q_j, \qquad
      L_c = \frac{1}{B} \sum_j q_{jc} \, \ell_j

    :math:`\sum_c L_c` is the mean loss of the batch. A class without examples has
    :math:`L_c = 0`. With ``where``, the sum and the number of examples :math:`B`
    include only the examples it keeps; if it keeps none, the result is zero.

    Args:
      losses: loss of every example, token or pixel, floats of shape ``(batch,)`` or of
        any other shape with at least one axis.
      labels: class ids in ``[0, num_classes)``, ints of the shape of ``losses``. An
        example with another id belongs to no class, but still counts in :math:`B`.
        If the labels are not traced, the id ``num_classes`` causes a warning: they may
        start from 1. Or soft labels, the share of each example in every class, floats
        of shape ``(*losses.shape, num_classes)``.
      num_classes: number of classes, a Python int.
      where: optional mask of the examples to keep, bools of the shape of ``losses``,
        for instance to exclude the padding of the last batch.

    Returns:
      Array of shape ``(num_classes,)``, in the dtype of ``losses`` but at least
      float32.

    Raises:
      ValueError: if a shape is not as above, or ``num_classes`` is less than one.
      TypeError: if ``losses`` are not floats, ``labels`` are neither ints nor soft
        labels, or ``where`` is not bools.

    Example:
      >>> import jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> losses = jnp.array([1.0, 2.0, 3.0, 4.0])
      >>> labels = jnp.array([0, 2, 0, 2])
      >>> fsam.per_class_losses(losses, labels, 3).tolist()
      [1.0, 0.0, 1.5]
      >>> soft = jnp.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.0, 1.0]])
      >>> fsam.per_class_losses(losses, soft, 2).tolist()
      [0.5, 2.0]
    """
    losses, labels = jnp.asarray(losses), jnp.asarray(labels)
    where = None if where is None else jnp.asarray(where)
    check_per_example(losses, labels, num_classes, where)
    losses = losses.astype(at_least_float32(losses.dtype))[..., None]
    # Multiplying by zeros and ones instead would spread a NaN to other classes.
    if jnp.issubdtype(labels.dtype, jnp.floating):
        parts = jnp.where(labels != 0, labels.astype(losses.dtype) * losses, 0)
    else:
        classes = jnp.arange(num_classes).reshape(*[1] * labels.ndim, -1)
        member = labels.astype(classes.dtype)[..., None] == classes
        parts = jnp.where(member, losses, 0)
    examples = tuple(range(losses.ndim - 1))
    if where is None:
        count = jnp.asarray(max(losses.size, 1), losses.dtype)
    else:
        parts = jnp.where(where[..., None], parts, 0)
        count = jnp.maximum(jnp.sum(where, dtype=losses.dtype), 1)
    return jnp.sum(parts, axis=examples) / count


def class_balanced_weights(
    class_counts: ClassValues, beta: ArrayLike = 0.9999
) -> jax.Array:
    r"""Computes class weights from the effective number of examples.

    .. math:: w_c \propto (1 - \beta) / (1 - \beta^{n_c}), \quad \sum_c w_c = C

    Args:
      class_counts: :math:`n`, shape ``(num_classes,)``; an empty class counts as one
        example.
      beta: scalar in ``[0, 1)``; zero gives ones. As it approaches one, the weights
        become inversely proportional to the counts.

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
    check_scalar("beta", beta, high=1, below=True)
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
    r"""Returns class-balanced weights for the last epochs only (deferred re-weighting).

    Args:
      class_counts: :math:`n`, shape ``(num_classes,)``; an empty class counts as one
        example.
      epoch: index of the epoch, from zero, scalar >= 0. If it is traced, the change of
        weights causes no recompilation.
      start_epoch: first epoch with class-balanced weights, scalar >= 0.
      beta: as in :func:`class_balanced_weights`.

    Returns:
      Floats of shape ``(num_classes,)``: ones before ``start_epoch``, and
      :func:`class_balanced_weights` from ``start_epoch`` on.

    Raises:
      ValueError, TypeError: if an argument is not as above.

    Example:
      >>> deferred_weights([5000, 50], epoch=159).tolist()
      [1.0, 1.0]

    References:
      Cao et al., LDAM and Deferred Re-weighting, NeurIPS 2019, arXiv:1906.07413
    """
    check_scalar("epoch", epoch)
    check_scalar("start_epoch", start_epoch)
    weights = class_balanced_weights(class_counts, beta)
    return jnp.where(jnp.less(epoch, start_epoch), jnp.ones_like(weights), weights)


def _checked(
    class_counts: ClassValues, *, allow_single_class: bool = False
) -> jax.Array:
    """Checks the counts and returns them as floats, ``(num_classes,)``."""
    class_counts = as_class_values(class_counts)
    check_class_counts(class_counts, allow_single_class=allow_single_class)
    # The sum of int32 counts would overflow at two billion examples.
    return jnp.asarray(class_counts, dtype=float)
