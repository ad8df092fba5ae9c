r"""CC-SAM, where every class has a ball of its own.

.. math::
  \epsilon_c = \rho_c \, \nabla L_c / \lVert \nabla L_c \rVert_2, \qquad
  G = \nabla L(\theta) + \alpha
      \Big[ \sum_c \nabla L_c(\theta + \epsilon_c) - \nabla L(\theta) \Big]

The cost grows with the number of classes in the batch: a backward at θ and a forward
and a backward at :math:`\theta + \epsilon_c` for each. Where it is a loop, one forward
more for each, at θ, halves the memory.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from focal_sam_jax._checks import ClassValues, check_scalar, is_concrete
from focal_sam_jax._devices import AxisName, device_any, device_mean
from focal_sam_jax._forward import Forward, after, forward
from focal_sam_jax._gradient import Correction, add_correction
from focal_sam_jax._loss_functions import (
    ArrayFn,
    PerClassLossFn,
    as_array_fn,
    each_as_array_fn,
)
from focal_sam_jax._perturbation import Mask, perturb, resolve_mask, widen

# Up to here a program with one copy of the network a class compiles in reasonable time.
_MAX_UNROLLED_CLASSES = 32


class _Sums(NamedTuple):
    """What is summed over the classes.

    Attributes:
      gradient: this device's perturbed gradients, a tree like the parameters.
      squared_norm: squared norms of the class gradients, ().
      rise: rises of the class losses, ().
      moved: whether any class moved, bool, ().
    """

    gradient: chex.ArrayTree
    squared_norm: jax.Array
    rise: jax.Array
    moved: jax.Array


def class_conditional_correction(
    per_class_loss_fn: PerClassLossFn,
    loss_fn: ArrayFn,
    here: Forward,
    plain: chex.ArrayTree | None,
    radii: jax.Array,
    *,
    mask: Mask,
    axis_name: AxisName,
) -> Correction:
    r""":math:`\sum_c \nabla L_c(\theta + \epsilon_c) - \nabla L(\theta)`.

    Three forms of one sum. A list of functions is visited one by one. A loop keeps
    memory independent of the number of classes, and a conditional skips the classes
    whose loss is zero on all devices: those that are absent. The loop makes the
    activations at θ anew for every class, a fifth more to compute at most: kept for all
    of them, they would lie beside those at :math:`\theta + \epsilon_c`, and double what
    is held. On CPU loops and conditionals around convolutions are far slower than
    convolutions, so the loop over a moderate number of classes is written out there,
    without the conditional. All classes then climb first, from one set of activations
    at θ, for which a gradient of each is held.

    Args:
      per_class_loss_fn: what the user passed: a sequence is visited function by
        function.
      loss_fn: the same as one function, parameters to ``(losses, aux)``.
      here: the forward pass at θ.
      plain: this device's :math:`\nabla L(\theta)`, if it is there already.
      radii: :math:`\rho_c`, shape ``(num_classes,)``.
      mask: as in :func:`~focal_sam_jax._perturbation.perturb`.
      axis_name: the axis, or axes, over which the batch is split.

    Returns:
      The correction. Its ascent norm is the root of the sum of the squared class norms,
      its sharpness :math:`\sum_c L_c(\theta + \epsilon_c) - L_c(\theta)`.
    """
    num_classes = here.losses.shape[0]
    nothing = jnp.zeros_like(here.losses[0])  # varies over devices as the losses do
    visit = partial(_visit, mask=mask, axis_name=axis_name)
    mean = partial(device_mean, axis_name=axis_name)
    sums = _Sums(
        gradient=jax.tree.map(lambda p: jnp.zeros_like(widen(p)), here.params),
        squared_norm=jnp.zeros_like(nothing, jnp.result_type(radii, here.losses)),
        rise=nothing,
        moved=jnp.zeros_like(nothing, bool),
    )
    if isinstance(per_class_loss_fn, Sequence):
        for c, function in enumerate(each_as_array_fn(per_class_loss_fn)):
            alone = forward(function, here.params, axis_name)
            uphill = mean(alone.pullback(1.0))
            sums = visit(sums, function, alone, uphill, 1.0, radii[c])
    elif jax.default_backend() == "cpu" and num_classes <= _MAX_UNROLLED_CLASSES:
        # Traced once and inlined for every class.
        losses_fn = jax.jit(lambda theta: (loss_fn(theta)[0], None))
        one_hots, uphills = np.eye(num_classes), []
        selected = resolve_mask(mask, here.params)
        for one_hot in one_hots:
            climb = here.pullback(after(uphills[-1:], one_hot))
            # Nothing waits for the rest, and so it is not computed.
            climb = jax.tree.map(lambda keep, g: g if keep else None, selected, climb)
            uphills.append(mean(climb))
        for c, (one_hot, uphill) in enumerate(zip(one_hots, uphills, strict=True)):
            radius = after((uphills[-1], sums.gradient), radii[c])
            sums = visit(sums, losses_fn, here, uphill, one_hot, radius)
    else:
        present = device_any(here.losses != 0, axis_name)
        # What is skipped there must be skipped here. A class climbs by its gradient at
        # θ, which is then at hand to be subtracted; with a mask only a part of it is.
        if mask is None:
            plain = jax.tree.map(jnp.zeros_like, here.params)
        else:
            plain = here.pullback(present.astype(here.losses.dtype))

        def visit_anew(sums, c):
            again = forward(loss_fn, here.params, axis_name)
            one_hot = jnp.arange(num_classes) == c
            climb = again.pullback(one_hot)
            less = climb if mask is None else None
            return visit(
                sums, loss_fn, again, mean(climb), one_hot, radii[c], less=less
            )

        def visit_if_present(sums, c):
            return jax.lax.cond(
                present[c], visit_anew, lambda sums, c: sums, sums, c
            ), None

        sums, _ = jax.lax.scan(visit_if_present, sums, jnp.arange(num_classes))

    if plain is None:
        plain = here.pullback(1.0)
    gradient = jax.tree.map(
        lambda a, b: jnp.where(sums.moved, a - widen(b), 0), sums.gradient, plain
    )
    return Correction(gradient, jnp.sqrt(sums.squared_norm), sums.rise)


def _visit(
    sums, loss_fn, here, uphill, one_hot, radius, *, mask, axis_name, less=None
) -> _Sums:
    """Adds the class that ``one_hot`` weighs, ``less`` its gradient at θ if given."""
    point = perturb(here.params, uphill, radius, mask=mask)
    there = forward(loss_fn, point.params, axis_name)
    gradient = jax.tree.map(widen, there.pullback(one_hot))
    if less is not None:
        gradient = jax.tree.map(lambda g, b: g - widen(b), gradient, less)
    gradient = jax.tree.map(jnp.add, sums.gradient, gradient)
    rise = jnp.sum(one_hot * (there.losses - here.losses))
    return _Sums(
        gradient,
        sums.squared_norm + (point.norm**2).astype(sums.squared_norm.dtype),
        sums.rise + rise.astype(sums.rise.dtype),
        sums.moved | point.moved,
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
    r"""``jax.value_and_grad`` with the gradient of CC-SAM.

    .. math::
      \epsilon_c = \rho_c \, \nabla L_c / \lVert \nabla L_c \rVert_2, \qquad
      G = (1 - \alpha) \nabla L(\theta) + \alpha \sum_c \nabla L_c(\theta + \epsilon_c)

    Every class climbs in its own ball, so the cost grows with the classes in the batch.
    A class costs nothing in a batch where its loss is exactly zero, because it is
    absent or fitted to the last bit, and memory does not depend on their number. On CPU
    this holds for more than 32 classes: fewer are all computed, one after the other,
    which is faster there. Call it under ``jax.jit``.

    The whole model is perturbed, or what ``mask`` selects. The published code perturbs
    the linear classifier only, which is cheaper too: with parameters
    ``{"backbone": ..., "head": ...}``, ``mask={"backbone": False, "head": True}``.

    Args:
      per_class_loss_fn: as in
        :func:`focal_sam_jax.sharpness_aware_value_and_grad`.
      rho: radius of each class, shape ``(num_classes,)``, from
        :func:`focal_sam_jax.cc_sam_radii`.
      alpha: share of the perturbed gradients, a scalar in ``[0, 1]``, traced or not.
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
      Zhou et al., `Class-Conditional Sharpness-Aware Minimization for Deep Long-Tailed
      Recognition <https://openaccess.thecvf.com/content/CVPR2023/html/
      Zhou_Class-Conditional_Sharpness-Aware_Minimization_for_Deep_Long-Tailed_
      Recognition_CVPR_2023_paper.html>`_, CVPR 2023
    """
    check_scalar("alpha", alpha, low=0, high=1)
    _check_radii(rho)
    radii = jnp.asarray(rho, float)
    array_fn = as_array_fn(per_class_loss_fn, radii.shape[0], has_aux)

    def value_and_grad(params, *args, **kwargs):
        def bound(function):
            return lambda theta: function(theta, *args, **kwargs)

        functions = per_class_loss_fn
        if isinstance(functions, Sequence):
            functions = [bound(function) for function in functions]
        loss_fn = bound(array_fn)
        here = forward(loss_fn, params, axis_name)
        plain = here.pullback(1.0)
        correction = class_conditional_correction(
            functions,
            loss_fn,
            here,
            plain,
            after(plain, radii),
            mask=mask,
            axis_name=axis_name,
        )
        grads = add_correction(plain, correction.gradient, alpha)
        loss, grads = device_mean((jnp.sum(here.losses), grads), axis_name)
        return ((loss, here.aux), grads) if has_aux else (loss, grads)

    return value_and_grad


def _check_radii(rho: ClassValues) -> None:
    if np.ndim(rho) != 1:
        raise ValueError(
            "rho must hold one radius per class, shape (num_classes,), got shape "
            f"{np.shape(rho)}; focal_sam_jax.cc_sam_radii makes them from counts."
        )
    if is_concrete(rho):
        values = np.asarray(rho, dtype=np.float64)
        if not np.all(np.isfinite(values)) or np.any(values < 0):
            raise ValueError(f"rho must be finite and >= 0, got {rho}.")
