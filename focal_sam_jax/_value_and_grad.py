"""The methods as ``jax.value_and_grad``, for wrappers that drop extra arguments."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import chex
import numpy as np
import optax

from focal_sam_jax._checks import (
    ClassValues,
    as_class_values,
    check_radii,
    check_scalar,
)
from focal_sam_jax._devices import AxisName
from focal_sam_jax._evaluation import PerClassLossFn, as_loss, bound, evaluation_of
from focal_sam_jax._perturbation import Mask
from focal_sam_jax._shared_backward import check_labels
from focal_sam_jax._transforms import (
    class_conditional,
    sharpness_aware,
    weights_and_classes,
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
    r"""Builds ``jax.value_and_grad`` with the gradient of SAM, ImbSAM or Focal-SAM.

    .. math::
      g_s = \nabla \sum_c s_c L_c(\theta), \qquad
      \epsilon = \rho \, g_s / \lVert g_s \rVert_2, \qquad
      G = \nabla L(\theta) + \lambda
          \Big[ \nabla \sum_c s_c L_c(\theta + \epsilon) - g_s \Big]

    It combines :func:`focal_sam_jax.evaluate` and
    :func:`focal_sam_jax.sharpness_aware`. The gradient works with any optimizer, also
    with those that drop extra arguments. A call costs two forward and three backward
    passes, or two and two if all classes have the same weight, as in SAM.

    Args:
      per_class_loss_fn: ``f(params, *args, **kwargs)`` that returns the per-class
        losses :math:`L_c`, floats of shape ``(num_classes,)`` that sum to the loss of
        the batch (see :func:`focal_sam_jax.per_class_losses`); with ``has_aux``, a pair
        of those and anything. Or a sequence of functions to a scalar, one per class.
      class_weights: :math:`s`, shape ``(num_classes,)``, from
        :func:`focal_sam_jax.focal_weights` or :func:`focal_sam_jax.tail_weights`; a
        scalar is the weight of all classes, and 1 with ``lam=1`` is SAM.
      rho: radius of the perturbation, a scalar >= 0, traced or not.
      lam: strength of the correction, a scalar >= 0, traced or not.
      has_aux: whether ``per_class_loss_fn`` returns a pair.
      adaptive: whether to scale the ball by the parameters, as ASAM does.
      mask: arrays to perturb: a tree of bools like the parameters or a prefix of it, or
        a function from the parameters to one. The norm runs over these only; all
        parameters get a gradient. ``None``: all.
      axis_name: the ``pmap`` or ``shard_map`` axis, or tuple of axes, over which the
        batch is split. Loss and gradient are means over it; ``aux`` is per device.
      sync_perturbation: whether to perturb along the gradient of the whole batch.
        ``False`` is m-sharpness: each device uses the gradient of its own share.
      per_example_labels: function from ``*args, **kwargs`` to the labels of the batch,
        ints of shape ``(batch,)``, or soft labels, floats of shape
        ``(batch, num_classes)``. It promises that no layer mixes examples, that the
        loss of an example counts only in the class of its label, and that
        ``per_class_loss_fn`` applies its parameters by
        :func:`focal_sam_jax.apply_per_example`. One backward pass over the activations
        at θ then serves both gradients.

    Returns:
      A function ``fn(params, *args, **kwargs) -> (loss, grads)``, or
      ``((loss, aux), grads)`` with ``has_aux``. ``loss`` is :math:`L(\theta)`, a
      scalar; ``grads`` is :math:`G`, like the parameters in structure and dtype;
      ``aux``, for instance BatchNorm statistics, comes from the pass at θ.

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
    check_scalar("rho", rho)
    weights, num_classes = weights_and_classes(class_weights)
    method = sharpness_aware(
        class_weights,
        rho=rho,
        lam=lam,
        adaptive=adaptive,
        mask=mask,
        axis_name=axis_name,
        sync_perturbation=sync_perturbation,
    )
    # With one weight for all classes there is only one gradient at θ.
    labels = per_example_labels if np.ndim(weights) else None
    return _value_and_grad(
        method, per_class_loss_fn, num_classes, has_aux, axis_name, labels
    )


def class_conditional_value_and_grad(
    per_class_loss_fn: PerClassLossFn,
    rho: ClassValues,
    *,
    alpha: chex.Numeric = 1.0,
    has_aux: bool = False,
    mask: Mask = None,
    axis_name: AxisName = None,
) -> Callable[..., tuple[Any, chex.ArrayTree]]:
    r"""Builds ``jax.value_and_grad`` with the gradient of CC-SAM.

    .. math::
      \epsilon_c = \rho_c \, \nabla L_c / \lVert \nabla L_c \rVert_2, \qquad
      G = (1 - \alpha) \nabla L(\theta) + \alpha \sum_c \nabla L_c(\theta + \epsilon_c)

    It combines :func:`focal_sam_jax.evaluate` and
    :func:`focal_sam_jax.class_conditional`, which describes the cost. Call it under
    ``jax.jit``.

    Args:
      per_class_loss_fn: as in
        :func:`focal_sam_jax.sharpness_aware_value_and_grad`.
      rho: radius of each class, the ``radii`` of
        :func:`focal_sam_jax.class_conditional` without groups, shape
        ``(num_classes,)``, from :func:`focal_sam_jax.cc_sam_radii`.
      alpha: weight of the perturbed gradients, a scalar in ``[0, 1]``, traced or not.
      has_aux: whether ``per_class_loss_fn`` returns ``(losses, aux)``.
      mask: arrays to perturb, see :func:`focal_sam_jax.sharpness_aware_value_and_grad`.
      axis_name: the ``pmap`` or ``shard_map`` axis, or tuple of axes, over which the
        batch is split. Perturbations, loss and gradient are means over it.

    Returns:
      A function ``fn(params, *args, **kwargs) -> (loss, grads)``, or
      ``((loss, aux), grads)`` with ``has_aux``, as
      :func:`focal_sam_jax.sharpness_aware_value_and_grad` returns it.

    Raises:
      ValueError: if a radius is negative or not finite, the radii do not match the
        losses, ``alpha`` lies outside ``[0, 1]``, or the losses are not of shape
        ``(num_classes,)``.
      TypeError: if ``per_class_loss_fn`` is not a function or returns a pair without
        ``has_aux``.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> def per_class_loss(params, x, y):
      ...     return fsam.per_class_losses((x @ params - y) ** 2, y, num_classes=2)
      >>> x, y = jnp.array([[1.0, 2.0], [3.0, 4.0]]), jnp.array([0, 1])
      >>> radii = fsam.cc_sam_radii([90, 10], rho=0.05)
      >>> fn = fsam.class_conditional_value_and_grad(per_class_loss, radii)
      >>> loss, grads = jax.jit(fn)(jnp.zeros(2), x, y)
      >>> grads.shape == (2,) and float(loss) == 0.5
      True

    References:
      Zhou et al., Class-Conditional Sharpness-Aware Minimization for Deep Long-Tailed
      Recognition, CVPR 2023
    """
    rho = as_class_values(rho)
    check_radii("rho", rho)
    method = class_conditional(rho, alpha=alpha, mask=mask, axis_name=axis_name)
    return _value_and_grad(method, per_class_loss_fn, np.size(rho), has_aux, axis_name)


def _value_and_grad(
    method: optax.GradientTransformationExtraArgs,
    per_class_loss_fn: PerClassLossFn,
    num_classes: int | None,
    has_aux: bool,
    axis_name: AxisName,
    per_example_labels: Callable[..., chex.Array] | None = None,
) -> Callable[..., tuple[Any, chex.ArrayTree]]:
    """Combines an evaluation and an update by ``method``."""
    as_loss(per_class_loss_fn, num_classes, has_aux)  # checks it early

    def value_and_grad(params, *args, **kwargs) -> tuple[Any, Any]:
        function = bound(per_class_loss_fn, *args, **kwargs)
        loss = as_loss(function, num_classes, has_aux)
        if per_example_labels is not None:
            labels = check_labels("labels", per_example_labels(*args, **kwargs))
            loss = replace(loss, labels=labels)
        here = evaluation_of(loss, params, axis_name)
        state = method.init(params)
        grads, _ = method.update(here.grads, state, params, evaluation=here)
        return ((here.loss, here.aux), grads) if has_aux else (here.loss, grads)

    return value_and_grad
