"""Class counts to class weights, and per-example losses to per-class losses."""

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from focal_sam_jax._checks import (
    ClassValues,
    at_least_float32,
    check_class_counts,
    check_per_class,
    check_per_example,
    check_scalar,
)


def class_priors(class_counts: ClassValues) -> jax.Array:
    r"""The share of every class in the training set.

    .. math::
      \pi_c = n_c / \sum_k n_k

    Args:
      class_counts: training examples of each class, ints or floats, shape
        ``(num_classes,)``.

    Returns:
      :math:`\pi`, float array of shape ``(num_classes,)``, summing to one.

    Raises:
      ValueError: if the counts are not 1-D, empty, negative, not finite, or all in one
        class.

    Example:
      >>> import focal_sam_jax as fsam
      >>> float(fsam.class_priors([30, 10]).sum())
      1.0
    """
    check_class_counts(class_counts)
    counts = _as_floats(class_counts)
    return counts / counts.sum()


def focal_weights(class_counts: ClassValues, gamma: chex.Numeric) -> jax.Array:
    r"""Focal-SAM's class weights: the rarer the class, the closer to one.

    .. math::
      s_c = (1 - \pi_c)^\gamma

    Args:
      class_counts: training examples of each class, shape ``(num_classes,)``.
      gamma: focusing exponent, a scalar >= 0. Zero weighs all classes alike, which
        turns Focal-SAM into SAM.

    Returns:
      :math:`s`, float array of shape ``(num_classes,)`` with values in ``[0, 1]``.

    Raises:
      ValueError: if the counts are not 1-D, empty, negative, not finite, or all in one
        class, or if ``gamma`` is negative or not finite.

    Example:
      >>> import focal_sam_jax as fsam
      >>> head, tail = fsam.focal_weights([90, 10], gamma=2.0)
      >>> bool(head < tail < 1)
      True

    References:
      Li et al., `Focal-SAM: Focal Sharpness-Aware Minimization for Long-Tailed
      Classification <https://arxiv.org/abs/2505.01660>`_, ICML 2025
    """
    check_class_counts(class_counts)
    check_scalar("gamma", gamma)
    counts = _as_floats(class_counts)
    total = counts.sum()
    # (N - n_c) / N keeps the digits that 1 - n_c / N loses for a dominant class.
    return ((total - counts) / total) ** gamma


def tail_weights(class_counts: ClassValues, threshold: chex.Numeric) -> jax.Array:
    r"""ImbSAM's class weights: one for tail classes, zero for the others.

    .. math::
      s_c = \mathbf{1}[n_c < \text{threshold}]

    Args:
      class_counts: training examples of each class, shape ``(num_classes,)``.
      threshold: a class is a tail class if it has strictly fewer examples, scalar >= 0.

    Returns:
      :math:`s`, float array of shape ``(num_classes,)`` of zeros and ones.

    Raises:
      ValueError: if the counts are not 1-D, empty, negative, not finite, or all in one
        class, or if ``threshold`` is negative or not finite.

    Example:
      >>> import focal_sam_jax as fsam
      >>> fsam.tail_weights([100, 20, 5], threshold=20).tolist()
      [0.0, 0.0, 1.0]

    References:
      Zhou et al., `ImbSAM: A Closer Look at Sharpness-Aware Minimization in
      Class-Imbalanced Recognition <https://arxiv.org/abs/2308.07815>`_, ICCV 2023
    """
    check_class_counts(class_counts)
    check_scalar("threshold", threshold)
    counts = _as_floats(class_counts)
    return (counts < threshold).astype(counts.dtype)


def cc_sam_radii(class_counts: ClassValues, rho: chex.Numeric) -> jax.Array:
    r"""CC-SAM's ball for every class: the rarer the class, the larger.

    .. math::
      \rho_c = \rho \left(\frac{\min_k m_k}{m_c}\right)^{1/4}, \qquad
      m_c = \max(n_c - 1, 1)

    The fourth root of :math:`n_c - 1` is the published dependence on the count; at
    :math:`n_c = 1` it would divide by zero, hence the maximum. The published radius has
    further factors that are the same for all classes or depend on gradient norms; here
    they are one number, :math:`\rho`, the radius of the rarest class, so that values
    compare with those of :func:`focal_sam_jax.sam`.

    Args:
      class_counts: training examples of each class, shape ``(num_classes,)``. A single
        class is accepted, and has the radius ``rho``.
      rho: radius of the rarest class, a scalar >= 0.

    Returns:
      :math:`\rho_c`, float array of shape ``(num_classes,)``.

    Raises:
      ValueError: if the counts are not 1-D, empty, negative, not finite, or all in one
        of several classes, or if ``rho`` is negative or not finite.

    Example:
      >>> import focal_sam_jax as fsam
      >>> fsam.cc_sam_radii([17, 2, 1], rho=0.5).tolist()
      [0.25, 0.5, 0.5]

    References:
      Zhou et al., `Class-Conditional Sharpness-Aware Minimization for Deep Long-Tailed
      Recognition <https://openaccess.thecvf.com/content/CVPR2023/html/
      Zhou_Class-Conditional_Sharpness-Aware_Minimization_for_Deep_Long-Tailed_
      Recognition_CVPR_2023_paper.html>`_, CVPR 2023
    """
    check_class_counts(class_counts, allow_single_class=True)
    check_scalar("rho", rho)
    others = jnp.maximum(_as_floats(class_counts) - 1, 1)
    return jnp.asarray(rho) * (others.min() / others) ** 0.25


def per_class_losses(
    losses: ArrayLike,
    labels: ArrayLike,
    num_classes: int,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    r"""Sorts the losses of a batch by class.

    .. math::
      L_c = \frac{1}{B} \sum_{j:\, y_j = c} \ell_j
      \qquad\text{or, with soft labels } q_j, \qquad
      L_c = \frac{1}{B} \sum_j q_{jc} \, \ell_j

    so that :math:`\sum_c L_c` is the mean loss of the batch and a class without
    examples has :math:`L_c = 0`. With ``where``, both the sum and :math:`B` run over
    the examples it keeps; a batch of which nothing is kept gives zeros.

    Args:
      losses: the loss of every example, floats of shape ``(batch,)``, or of any other
        shape with at least one axis: of every token or pixel.
      labels: class ids in ``[0, num_classes)``, ints of the shape of ``losses``; an
        example with an id outside belongs to no class, but still counts in :math:`B`.
        Outside of ``jit`` the id ``num_classes`` is warned of: labels may start from 1.
        Or soft labels, the share of each example in every class, floats of shape
        ``(*losses.shape, num_classes)``.
      num_classes: number of classes, a Python int.
      where: optional mask of the examples to keep, bools of the shape of ``losses``:
        pad the last batch to full size and mask what was added.

    Returns:
      Array of shape ``(num_classes,)``, in the dtype of ``losses`` but at least
      float32.

    Raises:
      ValueError: if a shape is not as above, or ``num_classes`` is less than one.
      TypeError: if ``losses`` are not floats, ``labels`` neither ints nor floats, or
        ``where`` is not bools.

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
    # Comparisons, not products with zeros and ones: a NaN stays with its example.
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
    check_scalar("epoch", epoch)
    check_scalar("start_epoch", start_epoch)
    weights = class_balanced_weights(class_counts, beta)
    return jnp.where(jnp.less(epoch, start_epoch), jnp.ones_like(weights), weights)


def _as_floats(class_counts: ClassValues) -> jax.Array:
    # Floats first: the sum of int32 counts overflows at two billion examples.
    return jnp.asarray(class_counts, dtype=float)
