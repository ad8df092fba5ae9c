r"""Losses for long-tailed classification, one value per example.

Every loss is a pure function ``(logits, labels, ...) -> (batch,)``. It never takes the
mean, so that :func:`focal_sam_jax.per_class_losses` can sum the values by class. With
:math:`n_c` training examples of class :math:`c`, the formulas use

.. math:: \ell(x, y) = -\ln p_y, \quad p_c = e^{x_c} / \sum_k e^{x_k},
   \quad \pi_c = n_c / \sum_k n_k

Arithmetic is in the dtype of the logits, but at least float32. A label outside
``[0, num_classes)`` belongs to no class: its loss and its gradient are zero. At test
time take the arg-max of the unchanged logits.

Logits have two axes and labels are class ids. For tokens or pixels, reshape the logits
to ``(-1, num_classes)`` and the labels to ``(-1,)``, and the losses back.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from focal_sam_jax._checks import (
    ClassValues,
    check_batch,
    check_per_class,
    check_scalar,
)
from focal_sam_jax._class_weights import (
    class_balanced_weights as class_balanced_weights,
)
from focal_sam_jax._class_weights import deferred_weights as deferred_weights

__all__ = [
    "class_balanced_weights",
    "cross_entropy",
    "deferred_weights",
    "focal",
    "ldam",
    "ldam_margins",
    "logit_adjusted",
    "vector_scaling",
]


def cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, class_weights: ClassValues | None = None
) -> jax.Array:
    r"""Computes the cross-entropy, weighted by class.

    .. math:: w_y \, \ell(x, y)

    The mean over a batch is then :math:`\sum_j w_{y_j} \ell_j / B`. PyTorch's weighted
    mean is divided by the sum of the weights instead of :math:`B`.

    Args:
      logits: floats of shape ``(batch, num_classes)``.
      labels: class ids, ints of shape ``(batch,)``.
      class_weights: :math:`w >= 0`, shape ``(num_classes,)``; by default ones.

    Returns:
      Losses of shape ``(batch,)``, in the dtype of the logits but at least float32.

    Raises:
      ValueError, TypeError: if an argument is not as above.

    Example:
      >>> once = cross_entropy([[2.0, 0.0]], [1])
      >>> twice = cross_entropy([[2.0, 0.0]], [1], class_weights=[1, 2])
      >>> bool(twice[0] == 2 * once[0])
      True
    """
    logits, is_label = check_batch(logits, labels)
    # Without a valid label, loss and gradient are zero, also for non-finite logits.
    logits = jnp.where(jnp.any(is_label, axis=1, keepdims=True), logits, 0)
    losses = -_at_label(is_label, jax.nn.log_softmax(logits))
    return _weigh(losses, is_label, class_weights)


def focal(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    gamma: ArrayLike = 2.0,
    class_weights: ClassValues | None = None,
) -> jax.Array:
    r"""Computes the focal loss, which lowers the weight of confident examples.

    .. math:: w_y \, (1 - p_y)^\gamma \, \ell(x, y)

    Published long-tail code uses :math:`e^{-w_y \ell}` in place of :math:`p_y`. With
    class weights that is not a probability; here :math:`p_y` is the probability.

    Args:
      logits: floats of shape ``(batch, num_classes)``.
      labels: class ids, ints of shape ``(batch,)``.
      gamma: focusing exponent, scalar >= 0; zero gives the cross-entropy.
      class_weights: :math:`w >= 0`, shape ``(num_classes,)``; by default ones.

    Returns:
      Losses of shape ``(batch,)``, in the dtype of the logits but at least float32.

    Raises:
      ValueError, TypeError: if an argument is not as above.

    Example:
      >>> unsure, sure = focal([[0.0, 0.0], [4.0, 0.0]], [0, 0])
      >>> bool(unsure > 100 * sure)
      True

    References:
      Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002
    """
    check_scalar("gamma", gamma)
    _, is_label = check_batch(logits, labels)
    of_label = cross_entropy(logits, labels)
    # The loss is infinite where the label's logit is masked: there the factor is one.
    losses = jnp.where(jnp.isposinf(of_label), 1, of_label)
    # At p = 1 a power < 1 has infinite derivatives, which are multiplied by zero. The
    # floor, far below the rounding error of 1 - p, keeps the first two finite.
    miss = jnp.maximum(-jnp.expm1(-losses), jnp.finfo(losses.dtype).eps ** 2)
    losses = miss ** jnp.asarray(gamma, losses.dtype) * losses
    losses = jnp.where(jnp.isposinf(of_label), of_label, losses)
    return _weigh(losses, is_label, class_weights)


def ldam_margins(class_counts: ClassValues, max_margin: ArrayLike = 0.5) -> jax.Array:
    r"""Computes LDAM's margin of every class, wider for rarer classes.

    .. math:: m_c = m_{\max} \, (\min_k n_k / n_c)^{1/4}

    Args:
      class_counts: :math:`n`, shape ``(num_classes,)``; an empty class is treated as
        the rarest other class.
      max_margin: margin of the rarest class, scalar >= 0.

    Returns:
      Margins, floats of shape ``(num_classes,)``.

    Raises:
      ValueError, TypeError: if an argument is not as above.

    Example:
      >>> ldam_margins([16, 1]).tolist()
      [0.25, 0.5]

    References:
      Cao et al., LDAM and Deferred Re-weighting, NeurIPS 2019, arXiv:1906.07413
    """
    check_scalar("max_margin", max_margin)
    counts = check_per_class("class_counts", class_counts)
    rarest = jnp.min(counts, where=counts > 0, initial=jnp.inf)
    return (rarest / jnp.maximum(counts, rarest)) ** 0.25 * max_margin


def ldam(
    logits: ArrayLike,
    labels: ArrayLike,
    class_counts: ClassValues,
    *,
    max_margin: ArrayLike = 0.5,
    scale: ArrayLike = 30.0,
    class_weights: ClassValues | None = None,
) -> jax.Array:
    r"""Computes the LDAM loss, with a margin that is wider for rarer classes.

    .. math:: w_y \, \ell(s \, (x - m_y e_y), y), \quad e_y \text{ the one-hot label}

    Args:
      logits: cosines of a head that normalises features and class vectors, without
        bias or scale, floats of shape ``(batch, num_classes)``.
      labels: class ids, ints of shape ``(batch,)``.
      class_counts: :math:`n`, shape ``(num_classes,)``, for :func:`ldam_margins`.
      max_margin: margin of the rarest class, scalar >= 0.
      scale: factor :math:`s` of the cosines, scalar > 0.
      class_weights: :math:`w >= 0`, shape ``(num_classes,)``; by default ones.

    Returns:
      Losses of shape ``(batch,)``, in the dtype of the logits but at least float32.

    Raises:
      ValueError, TypeError: if an argument is not as above.

    Example:
      >>> head, tail = ldam([[0.6, 0.6], [0.6, 0.6]], [0, 1], [1000, 10])
      >>> bool(head < tail)
      True

    References:
      Cao et al., LDAM and Deferred Re-weighting, NeurIPS 2019, arXiv:1906.07413
    """
    check_scalar("scale", scale, above=True)
    logits, is_label = check_batch(logits, labels)
    check_per_class("class_counts", class_counts, logits.shape[1])
    margins = ldam_margins(class_counts, max_margin).astype(logits.dtype)
    logits = logits - jnp.where(is_label, margins[None, :], 0)
    scaled = jnp.asarray(scale, logits.dtype) * logits
    return cross_entropy(scaled, labels, class_weights=class_weights)


def vector_scaling(
    logits: ArrayLike,
    labels: ArrayLike,
    class_counts: ClassValues,
    *,
    gamma: ArrayLike = 0.3,
    tau: ArrayLike = 1.0,
    class_weights: ClassValues | None = None,
) -> jax.Array:
    r"""Computes the vector-scaling (VS) loss.

    Logits are divided and lowered, more for rare classes.

    .. math:: w_y \, \ell(x_c / D_c + \tau \ln \pi_c, y), \quad
       D_c = (\max_k n_k / n_c)^\gamma

    Args:
      logits: floats of shape ``(batch, num_classes)``.
      labels: class ids, ints of shape ``(batch,)``.
      class_counts: :math:`n`, shape ``(num_classes,)``; for an empty class
        :math:`1 / D_c` is :math:`0^\gamma`, and :math:`\pi_c` is as in
        :func:`logit_adjusted`.
      gamma: exponent of the divisors, scalar >= 0; with zero, only the shifts remain.
      tau: factor of the shifts, scalar >= 0.
      class_weights: :math:`w >= 0`, shape ``(num_classes,)``; by default ones.

    Returns:
      Losses of shape ``(batch,)``, in the dtype of the logits but at least float32.

    Raises:
      ValueError, TypeError: if an argument is not as above.

    Example:
      >>> head, tail = vector_scaling([[1.0, 1.0], [1.0, 1.0]], [0, 1], [100, 10])
      >>> bool(head < tail)
      True

    References:
      Kini et al., Label-Imbalanced and Group-Sensitive Classification under
      Overparameterization, NeurIPS 2021, arXiv:2103.01550
    """
    check_scalar("gamma", gamma)
    logits, is_label = check_batch(logits, labels)
    counts = check_per_class("class_counts", class_counts, logits.shape[1])
    shrink = ((counts / counts.max()) ** gamma).astype(logits.dtype)
    # A logit of minus infinity masks its class, even if 1 / D_c is zero.
    masked = jnp.isneginf(logits)
    shrunk = shrink[None, :] * jnp.where(masked, 0, logits)
    logits = jnp.where(masked, logits, shrunk)
    losses = logit_adjusted(logits, labels, class_counts, tau=tau)
    return _weigh(losses, is_label, class_weights)


def logit_adjusted(
    logits: ArrayLike,
    labels: ArrayLike,
    class_counts: ClassValues,
    *,
    tau: ArrayLike = 1.0,
) -> jax.Array:
    r"""Computes the logit-adjusted loss, with logits shifted by the log class priors.

    .. math:: \ell(x_c + \tau \ln \pi_c, y)

    Args:
      logits: floats of shape ``(batch, num_classes)``.
      labels: class ids, ints of shape ``(batch,)``.
      class_counts: :math:`n`, shape ``(num_classes,)``; for an empty class
        :math:`\pi_c` is 1e-9, which keeps its loss finite.
      tau: factor of the shifts, scalar >= 0; zero gives the cross-entropy, one Balanced
        Softmax (arXiv:2007.10740).

    Returns:
      Losses of shape ``(batch,)``, in the dtype of the logits but at least float32.

    Raises:
      ValueError, TypeError: if an argument is not as above.

    Example:
      >>> head, tail = logit_adjusted([[1.0, 1.0], [1.0, 1.0]], [0, 1], [75, 25])
      >>> bool(head < tail)
      True

    References:
      Menon et al., Long-Tail Learning via Logit Adjustment, ICLR 2021, arXiv:2007.07314
    """
    check_scalar("tau", tau)
    logits, _ = check_batch(logits, labels)
    counts = check_per_class("class_counts", class_counts, logits.shape[1])
    # Published code adds 1e-9; the maximum does not change the other classes' priors.
    shifts = tau * jnp.log(jnp.maximum(counts / counts.sum(), 1e-9))
    return cross_entropy(logits + shifts.astype(logits.dtype)[None, :], labels)


def _at_label(is_label: jax.Array, values: jax.Array) -> jax.Array:
    # Not a gather: this can be sharded along both axes, and is 0 without a label.
    return jnp.sum(jnp.where(is_label, values, 0), axis=1)


def _weigh(
    losses: jax.Array, is_label: jax.Array, class_weights: ClassValues | None
) -> jax.Array:
    if class_weights is None:
        return losses
    weights = check_per_class("class_weights", class_weights, is_label.shape[1])
    weights = _at_label(is_label, weights.astype(losses.dtype)[None, :])
    return weights * jnp.where(weights == 0, 0, losses)  # a loss may be infinite
