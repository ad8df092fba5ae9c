"""Class counts to class weights, and per-example losses to per-class losses."""

import chex
import jax
import jax.numpy as jnp

from focal_sam_jax._checks import ClassValues, check_class_counts, check_scalar


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
    check_scalar("gamma", gamma, low=0)
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
    check_scalar("threshold", threshold, low=0)
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
    check_scalar("rho", rho, low=0)
    others = jnp.maximum(_as_floats(class_counts) - 1, 1)
    return jnp.asarray(rho) * (others.min() / others) ** 0.25


def per_class_losses(
    losses: jax.typing.ArrayLike,
    labels: jax.typing.ArrayLike,
    num_classes: int,
    *,
    where: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""Sorts the losses of a batch by class.

    .. math::
      L_c = \frac{1}{B} \sum_{j:\, y_j = c} \ell_j

    so that :math:`\sum_c L_c` is the mean loss of the batch and a class without
    examples has :math:`L_c = 0`. With ``where``, both the sum and :math:`B` run over
    the examples it keeps; a batch of which nothing is kept gives zeros.

    Args:
      losses: per-example losses, floats of shape ``(batch,)``.
      labels: class ids in ``[0, num_classes)``, ints of shape ``(batch,)``. An example
        with an id outside belongs to no class, but still counts in :math:`B`.
      num_classes: number of classes, a Python int.
      where: optional mask of the examples to keep, bools of shape ``(batch,)``: pad the
        last batch to full size and mask what was added.

    Returns:
      Array of shape ``(num_classes,)``, in the dtype of ``losses`` but at least
      float32.

    Raises:
      ValueError: if a shape is not as above, or ``num_classes`` is less than one.
      TypeError: if ``labels`` are not ints or ``losses`` not floats.

    Example:
      >>> import jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> losses = jnp.array([1.0, 2.0, 3.0, 4.0])
      >>> labels = jnp.array([0, 2, 0, 2])
      >>> fsam.per_class_losses(losses, labels, 3).tolist()
      [1.0, 0.0, 1.5]
    """
    losses, labels = jnp.asarray(losses), jnp.asarray(labels)
    where = None if where is None else jnp.asarray(where)
    _check_per_class_inputs(losses, labels, num_classes, where)
    losses = losses.astype(jnp.promote_types(losses.dtype, jnp.float32))
    # A comparison, not a one-hot product: it stays exact in low precision, and a NaN
    # stays in the class of its example.
    member = labels[:, None] == jnp.arange(num_classes)[None, :]
    count = jnp.asarray(losses.shape[0], losses.dtype)
    if where is not None:
        member &= where[:, None].astype(bool)
        count = jnp.sum(where, dtype=losses.dtype)
    sums = jnp.sum(jnp.where(member, losses[:, None], 0), axis=0)
    return sums / jnp.maximum(count, 1)


def _as_floats(class_counts: ClassValues) -> jax.Array:
    # Floats first: the sum of int32 counts overflows at two billion examples.
    return jnp.asarray(class_counts, dtype=float)


def _check_per_class_inputs(losses, labels, num_classes, where):
    if losses.ndim != 1:
        raise ValueError(
            f"losses must have one entry per example, shape (batch,), got "
            f"{losses.shape}; did you take the mean?"
        )
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        raise TypeError(f"losses must be floats, got {losses.dtype}.")
    if labels.shape != losses.shape:
        raise ValueError(
            f"labels must have the shape of losses, {losses.shape}, got "
            f"{labels.shape}; for one-hot labels pass labels.argmax(-1)."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be ints, got {labels.dtype}.")
    if where is not None and where.shape != losses.shape:
        raise ValueError(
            f"where must have the shape of losses, {losses.shape}, got {where.shape}."
        )
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}.")
