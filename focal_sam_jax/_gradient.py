r"""The methods as pure functions: one forward at θ, its pullbacks, one pass at θ + ε.

With the loss of a batch written class by class, :math:`L = \sum_c L_c`, all methods
but CC-SAM are

.. math::
  g_s = \nabla \sum_c s_c L_c(\theta), \qquad
  \epsilon = \rho \, g_s / \lVert g_s \rVert_2, \qquad
  G = \nabla L(\theta) + \lambda
      \Big[ \nabla \sum_c s_c L_c(\theta + \epsilon) - g_s \Big]

and differ in the class weights :math:`s` and in :math:`\lambda` alone. The bracket is
the *correction*: what turns a plain gradient into a sharpness-aware one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from focal_sam_jax._checks import ClassValues, check_scalar, is_concrete
from focal_sam_jax._devices import AxisName, device_mean
from focal_sam_jax._forward import Forward, after, forward, forward_shared
from focal_sam_jax._loss_functions import ArrayFn, PerClassLossFn, as_array_fn
from focal_sam_jax._perturbation import Mask, perturb, widen


class Correction(NamedTuple):
    r"""What a method adds to the plain gradient, before :math:`\lambda`.

    Attributes:
      gradient: this device's correction, a tree like the parameters, float32 or wider.
      ascent_norm: norm of the gradient that was climbed, ().
      sharpness: rise of the weighted loss from θ to θ + ε, ().
    """

    gradient: chex.ArrayTree
    ascent_norm: jax.Array
    sharpness: jax.Array


def ascent_gradient(
    here: Forward,
    plain: chex.ArrayTree | None,
    class_weights: chex.Numeric,
    uniform: float | None,
) -> chex.ArrayTree:
    r"""This device's :math:`g_s`, from :math:`\nabla L` where it is there and serves.

    Args:
      here: the forward pass at θ.
      plain: this device's :math:`\nabla L`, or ``None``.
      class_weights: :math:`s`, a scalar or shape ``(num_classes,)``.
      uniform: the weight that all classes share, ``None`` if there is none.
    """
    if plain is None or uniform is None:
        return here.pullback(class_weights)
    return jax.tree.map(lambda g: uniform * g, plain)


def sharpness_correction(
    loss_fn: ArrayFn,
    here: Forward,
    ascent_gradient: chex.ArrayTree,
    class_weights: chex.Numeric,
    rho: chex.Numeric,
    *,
    adaptive: bool,
    mask: Mask,
    axis_name: AxisName,
    sync_perturbation: bool,
) -> Correction:
    r""":math:`\nabla \sum_c s_c L_c(\theta + \epsilon) - g_s`, from ``here`` = θ.

    Args:
      loss_fn: parameters to ``(losses, aux)``.
      here: the forward pass at θ.
      ascent_gradient: :math:`g_s`, this device's.
      class_weights: :math:`s`, a scalar or shape ``(num_classes,)``.
      rho: radius, scalar.
      adaptive: as in :func:`~focal_sam_jax._perturbation.perturb`.
      mask: as in :func:`~focal_sam_jax._perturbation.perturb`.
      axis_name: the axis, or axes, over which the batch is split.
      sync_perturbation: climb by the mean gradient of all devices, not by the own one.

    Returns:
      The correction; zero, exactly, if there was nothing to climb.
    """
    uphill = ascent_gradient
    if sync_perturbation:
        uphill = device_mean(uphill, axis_name)
    point = perturb(here.params, uphill, rho, adaptive=adaptive, mask=mask)
    there = forward(loss_fn, point.params, axis_name)
    gradient = jax.tree.map(
        lambda a, b: jnp.where(point.moved, widen(a) - widen(b), 0),
        there.pullback(class_weights),
        ascent_gradient,
    )
    rise = jnp.sum(class_weights * (there.losses - here.losses))
    return Correction(gradient, point.norm, rise)


def add_correction(
    gradient: chex.ArrayTree,
    correction: chex.ArrayTree,
    strength: chex.Numeric,
) -> chex.ArrayTree:
    """``gradient + strength * correction``, in the dtypes of ``gradient``."""
    return jax.tree.map(
        lambda g, c: (widen(g) + strength * c).astype(g.dtype), gradient, correction
    )


def sharpness_aware_value_and_grad(
    per_class_loss_fn: PerClassLossFn,
    class_weights: ClassValues,
    *,
    rho: chex.Numeric,
    lam: chex.Numeric = 1.0,
    has_aux: bool = False,
    adaptive: bool = False,
    mask: Mask = None,
    axis_name: AxisName = None,
    sync_perturbation: bool = True,
    per_example_labels: Callable[..., chex.Array] | None = None,
) -> Callable[..., tuple[Any, chex.ArrayTree]]:
    r"""``jax.value_and_grad`` with the gradient of SAM, ImbSAM or Focal-SAM.

    .. math::
      g_s = \nabla \sum_c s_c L_c(\theta), \qquad
      \epsilon = \rho \, g_s / \lVert g_s \rVert_2, \qquad
      G = \nabla L(\theta) + \lambda
          \Big[ \nabla \sum_c s_c L_c(\theta + \epsilon) - g_s \Big]

    The forward pass at θ runs once and serves both gradients there: two forwards and
    three backwards in all, and two and two where all classes weigh the same, as in SAM.
    The result feeds any Optax optimizer, also those that drop extra arguments.

    Args:
      per_class_loss_fn: ``f(params, *args, **kwargs)`` to the per-class losses
        :math:`L_c`, floats of shape ``(num_classes,)`` that sum to the loss of the
        batch (see :func:`focal_sam_jax.per_class_losses`); with ``has_aux`` to a pair
        of those and anything. Or a sequence of functions, one a class, to a scalar.
      class_weights: :math:`s`, shape ``(num_classes,)``, from
        :func:`focal_sam_jax.focal_weights` or :func:`focal_sam_jax.tail_weights`; a
        scalar weighs all classes alike, and 1 with ``lam=1`` is SAM.
      rho: radius of the perturbation, a scalar >= 0, traced or not.
      lam: strength of the correction, a scalar >= 0, traced or not.
      has_aux: whether ``per_class_loss_fn`` returns a pair.
      adaptive: scale the ball by the parameters, as ASAM does.
      mask: arrays to perturb: a tree of bools like the parameters or a prefix of it, or
        a function from the parameters to one. The norm runs over these alone; all
        parameters get a gradient. ``None``: all.
      axis_name: the ``pmap`` or ``shard_map`` axis, or tuple of axes, over which the
        batch is split. Loss and gradient are means over it; ``aux`` is each device's.
      sync_perturbation: climb by the gradient of the whole batch. ``False`` is
        m-sharpness: every device climbs by the gradient of its share.
      per_example_labels: from ``*args, **kwargs`` to the labels of the batch, ints of
        shape ``(batch,)``: a promise that no layer mixes examples, that the loss of an
        example counts in the class of its label alone, and that ``per_class_loss_fn``
        applies its parameters by :func:`focal_sam_jax.apply_per_example`. Then one
        backward pass over the activations at θ serves both gradients.

    Returns:
      A function ``fn(params, *args, **kwargs) -> (loss, grads)``, or
      ``((loss, aux), grads)`` with ``has_aux``. ``loss`` is :math:`L(\theta)`, a
      scalar; ``grads`` is :math:`G`, like the parameters in structure and dtype;
      ``aux`` comes from the pass at θ, so that BatchNorm statistics do.

    Raises:
      ValueError: if ``rho`` or ``lam`` is negative or not finite, the weights are not
        finite or do not match the losses, or the losses are not of shape
        ``(num_classes,)``.
      TypeError: if ``rho`` is a schedule, or ``per_class_loss_fn`` is not a function or
        returns a pair without ``has_aux``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> def per_class_loss(params, x, y):
      ...     return fsam.per_class_losses((x @ params - y) ** 2, y, num_classes=2)
      >>> x, y = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([0, 1])
      >>> weights = fsam.focal_weights([90, 10], gamma=1.0)
      >>> fn = fsam.sharpness_aware_value_and_grad(
      ...     per_class_loss, weights, rho=0.05, lam=0.5)
      >>> loss, grads = jax.jit(fn)(jnp.zeros(2), x, y)
      >>> grads.shape == (2,) and float(loss) == 0.5
      True

    References:
      Li et al., `Focal-SAM: Focal Sharpness-Aware Minimization for Long-Tailed
      Classification <https://arxiv.org/abs/2505.01660>`_, ICML 2025
    """
    check_scalar("rho", rho, low=0)
    check_scalar("lam", lam, low=0)
    uniform = check_class_weights(class_weights)
    weights = uniform if uniform is not None else jnp.asarray(class_weights, float)
    num_classes = np.shape(class_weights)[0] if np.ndim(class_weights) else None
    array_fn = as_array_fn(per_class_loss_fn, num_classes, has_aux)

    def value_and_grad(params, *args, **kwargs):
        def loss_fn(theta):
            return array_fn(theta, *args, **kwargs)

        if uniform is None and per_example_labels is not None:
            labels = per_example_labels(*args, **kwargs)
            here, (plain, ascent) = forward_shared(
                loss_fn, params, weights, labels, axis_name
            )
        else:
            here = forward(loss_fn, params, axis_name)
            plain = here.pullback(1.0)
            ascent = ascent_gradient(here, plain, weights, uniform)
        correction = sharpness_correction(
            loss_fn,
            here,
            ascent,
            weights,
            after(plain, rho),
            adaptive=adaptive,
            mask=mask,
            axis_name=axis_name,
            sync_perturbation=sync_perturbation,
        )
        grads = add_correction(plain, correction.gradient, lam)
        loss, grads = device_mean((jnp.sum(here.losses), grads), axis_name)
        return ((loss, here.aux), grads) if has_aux else (loss, grads)

    return value_and_grad


def check_class_weights(class_weights: ClassValues) -> float | None:
    """The weight that all classes share, if they do and it can be known now."""
    if np.ndim(class_weights) > 1 or np.size(class_weights) == 0:
        raise ValueError(
            "class_weights must be a scalar or have shape (num_classes,), got shape "
            f"{np.shape(class_weights)}."
        )
    if not is_concrete(class_weights):
        return None
    weights = np.asarray(class_weights, dtype=np.float64)
    if not np.all(np.isfinite(weights)):
        raise ValueError(f"class_weights must be finite, got {class_weights}.")
    return float(weights.flat[0]) if np.ptp(weights) == 0 else None
