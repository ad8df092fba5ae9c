r"""Losses for long-tailed classification, one value per example.

Every loss is a pure function ``(logits, labels, ...) -> (batch,)`` and never takes the
mean, so that :func:`focal_sam_jax.per_class_losses` can sort the values by class. With
:math:`n_c` training examples of class :math:`c`, the formulas use

.. math:: \ell(x, y) = -\ln p_y, \quad p_c = e^{x_c} / \sum_k e^{x_k},
   \quad \pi_c = n_c / \sum_k n_k

Arithmetic is in the dtype of the logits, but at least float32. A label outside
``[0, num_classes)`` belongs to no class: its loss and its gradient are zero. At test
time take the arg-max of the logits as they are: the changes belong to training.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

_PerClass = ArrayLike | Sequence[float]


def cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, class_weights: _PerClass | None = None
) -> jax.Array:
    r"""Cross-entropy, weighed per class.

    .. math:: w_y \, \ell(x, y)

    The mean over a batch is then :math:`\sum_j w_{y_j} \ell_j / B`, not divided by the
    sum of the weights as PyTorch's weighted mean is.

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
    logits, is_label = _check_batch(logits, labels)
    losses = -_at_label(is_label, jax.nn.log_softmax(logits))
    return _weigh(losses, is_label, class_weights)


def focal(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    gamma: ArrayLike = 2.0,
    class_weights: _PerClass | None = None,
) -> jax.Array:
    r"""Focal loss: the surer the network is of the label, the less an example counts.

    .. math:: w_y \, (1 - p_y)^\gamma \, \ell(x, y)

    Published long-tail code puts :math:`e^{-w_y \ell}` for :math:`p_y`, which is no
    probability once there are weights; here it is the probability.

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
    _check_number("gamma", gamma, lambda g: 0 <= g < np.inf, "finite and >= 0")
    _, is_label = _check_batch(logits, labels)
    losses = cross_entropy(logits, labels)
    # At p = 1 a power < 1 has an infinite slope, times zero; the floor stops it there.
    miss = jnp.maximum(-jnp.expm1(-losses), jnp.finfo(losses.dtype).tiny)
    losses = miss ** jnp.asarray(gamma, losses.dtype) * losses
    return _weigh(losses, is_label, class_weights)


def class_balanced_weights(
    class_counts: _PerClass, beta: ArrayLike = 0.9999
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
    _check_number("beta", beta, lambda b: 0 <= b < 1, "in [0, 1)")
    counts = jnp.maximum(_check_per_class("class_counts", class_counts), 1)
    # 1 - beta before any rounding to float32; 1 - beta ** n would lose its digits.
    weights = -1 / jnp.expm1(counts * jnp.log1p(-(1 - beta)))
    return weights * (weights.size / weights.sum())


def deferred_weights(
    class_counts: _PerClass,
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
    _check_number("epoch", epoch, lambda e: e >= 0, ">= 0")
    _check_number("start_epoch", start_epoch, lambda e: e >= 0, ">= 0")
    weights = class_balanced_weights(class_counts, beta)
    return jnp.where(jnp.less(epoch, start_epoch), jnp.ones_like(weights), weights)


def ldam_margins(class_counts: _PerClass, max_margin: ArrayLike = 0.5) -> jax.Array:
    r"""LDAM's margin for every class: the rarer the class, the wider.

    .. math:: m_c = m_{\max} \, (\min_k n_k / n_c)^{1/4}

    Args:
      class_counts: :math:`n`, shape ``(num_classes,)``; an empty class counts as the
        rarest of the others.
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
    _check_number(
        "max_margin", max_margin, lambda m: 0 <= m < np.inf, "finite and >= 0"
    )
    counts = _check_per_class("class_counts", class_counts)
    rarest = jnp.min(counts, where=counts > 0, initial=jnp.inf)
    return (rarest / jnp.maximum(counts, rarest)) ** 0.25 * max_margin


def ldam(
    logits: ArrayLike,
    labels: ArrayLike,
    class_counts: _PerClass,
    *,
    max_margin: ArrayLike = 0.5,
    scale: ArrayLike = 30.0,
    class_weights: _PerClass | None = None,
) -> jax.Array:
    r"""LDAM: the label has to win by a margin, the wider the rarer its class.

    .. math:: w_y \, \ell(s \, (x - m_y e_y), y), \quad e_y \text{ the one-hot label}

    Args:
      logits: cosines of a head that normalises features and class vectors, without
        bias or scale, floats of shape ``(batch, num_classes)``.
      labels: class ids, ints of shape ``(batch,)``.
      class_counts: :math:`n`, shape ``(num_classes,)``, for :func:`ldam_margins`.
      max_margin: margin of the rarest class, scalar >= 0.
      scale: :math:`s`, which the cosines lack, scalar > 0.
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
    _check_number("scale", scale, lambda s: 0 < s < np.inf, "finite and > 0")
    logits, is_label = _check_batch(logits, labels)
    _check_per_class("class_counts", class_counts, logits.shape[1])
    margins = ldam_margins(class_counts, max_margin).astype(logits.dtype)
    logits = logits - jnp.where(is_label, margins[None, :], 0)
    scaled = jnp.asarray(scale, logits.dtype) * logits
    return cross_entropy(scaled, labels, class_weights=class_weights)


def vector_scaling(
    logits: ArrayLike,
    labels: ArrayLike,
    class_counts: _PerClass,
    *,
    gamma: ArrayLike = 0.3,
    tau: ArrayLike = 1.0,
    class_weights: _PerClass | None = None,
) -> jax.Array:
    r"""Vector-scaling (VS) loss: logits divided and lowered, more so for rare classes.

    .. math:: w_y \, \ell(x_c / D_c + \tau \ln \pi_c, y), \quad
       D_c = (\max_k n_k / n_c)^\gamma

    Args:
      logits: floats of shape ``(batch, num_classes)``.
      labels: class ids, ints of shape ``(batch,)``.
      class_counts: :math:`n`, shape ``(num_classes,)``; for an empty class
        :math:`1 / D_c` is zero, and :math:`\pi_c` as for :func:`logit_adjusted`.
      gamma: exponent of the divisors, scalar >= 0; zero leaves the shifts alone.
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
    _check_number("gamma", gamma, lambda g: 0 <= g < np.inf, "finite and >= 0")
    logits, is_label = _check_batch(logits, labels)
    counts = _check_per_class("class_counts", class_counts, logits.shape[1])
    shrink = ((counts / counts.max()) ** gamma).astype(logits.dtype)
    losses = logit_adjusted(shrink[None, :] * logits, labels, class_counts, tau=tau)
    return _weigh(losses, is_label, class_weights)


def logit_adjusted(
    logits: ArrayLike,
    labels: ArrayLike,
    class_counts: _PerClass,
    *,
    tau: ArrayLike = 1.0,
) -> jax.Array:
    r"""Logit-adjusted loss: logits lowered by the log of how common their class is.

    .. math:: \ell(x_c + \tau \ln \pi_c, y)

    Args:
      logits: floats of shape ``(batch, num_classes)``.
      labels: class ids, ints of shape ``(batch,)``.
      class_counts: :math:`n`, shape ``(num_classes,)``; for an empty class
        :math:`\pi_c` is 1e-9, which keeps its loss finite.
      tau: factor of the shifts, scalar >= 0; zero gives the cross-entropy.

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
    _check_number("tau", tau, lambda t: 0 <= t < np.inf, "finite and >= 0")
    logits, _ = _check_batch(logits, labels)
    counts = _check_per_class("class_counts", class_counts, logits.shape[1])
    # A maximum, where published code adds: the prior of no other class is changed.
    shifts = tau * jnp.log(jnp.maximum(counts / counts.sum(), 1e-9))
    return cross_entropy(logits + shifts.astype(logits.dtype)[None, :], labels)


def _at_label(is_label: jax.Array, values: jax.Array) -> jax.Array:
    # Not a gather: this splits over devices along both axes, and is 0 for no label.
    return jnp.sum(jnp.where(is_label, values, 0), axis=1)


def _weigh(
    losses: jax.Array, is_label: jax.Array, class_weights: _PerClass | None
) -> jax.Array:
    if class_weights is None:
        return losses
    weights = _check_per_class("class_weights", class_weights, is_label.shape[1])
    return _at_label(is_label, weights.astype(losses.dtype)[None, :]) * losses


def _check_batch(logits: ArrayLike, labels: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Logits in float32 or wider, and which class is the label: both (B, C)."""
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if logits.ndim != 2:
        raise ValueError(
            f"logits must have shape (batch, num_classes), got {logits.shape}; reshape "
            "them, for instance with logits.reshape(-1, num_classes)."
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"logits must be floats, got {logits.dtype}; convert them.")
    if labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels must have shape (batch,), here {logits.shape[:1]}, got "
            f"{labels.shape}; for one-hot labels pass labels.argmax(-1)."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be ints, got {labels.dtype}; pass class ids.")
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    classes = jnp.arange(logits.shape[1], dtype=jnp.int32)
    return logits, labels.astype(jnp.int32)[:, None] == classes[None, :]


def _check_per_class(
    name: str, values: _PerClass, num_classes: int | None = None
) -> jax.Array:
    """The values as floats, (C,); looked at unless traced."""
    array = jnp.asarray(values, dtype=float)
    if array.ndim != 1 or num_classes not in (None, array.size):
        raise ValueError(
            f"{name} must have shape ({num_classes or 'num_classes'},), got "
            f"{array.shape}; pass one number for every column of the logits."
        )
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values)):
        return array
    looked_at = np.asarray(values, dtype=float)
    if not (np.all((looked_at >= 0) & (looked_at < np.inf)) and np.any(looked_at)):
        raise ValueError(
            f"{name} must be finite, >= 0 and not all zero, got {looked_at.tolist()}."
        )
    return array


def _check_number(
    name: str, value: ArrayLike, is_good: Callable[..., bool], wanted: str
) -> None:
    is_traced = isinstance(value, Tracer)
    if not (is_traced or jnp.issubdtype(np.asarray(value).dtype, jnp.number)):
        raise TypeError(f"{name} must be a number {wanted}, got {value!r}.")
    if np.ndim(value) != 0 or not (is_traced or is_good(value)):
        raise ValueError(f"{name} must be a single number {wanted}, got {value}.")
