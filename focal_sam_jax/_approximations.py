r"""Cheaper than the methods, and not the same: what an earlier step saw is used again.

:func:`reuse_ascent` takes the direction to climb from the step before,
:func:`looksam` in most steps what the climb changes. Both keep one tree as large as the
parameters, in their dtypes: it is made of gradients, which have no more digits.
"""

from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from focal_sam_jax._checks import (
    ClassValues,
    check_composition,
    check_rho,
    check_scalar,
    is_concrete,
    is_in_multi_steps,
)
from focal_sam_jax._devices import AxisName, cond, device_mean
from focal_sam_jax._evaluation import at_theta, forward
from focal_sam_jax._methods import add_correction, after
from focal_sam_jax._perturbation import Mask, norm, perturb, resolve_mask, widen
from focal_sam_jax._transforms import (
    Rho,
    SharpnessInfo,
    as_info,
    in_form_of,
    radius,
    weights_and_classes,
)


class ReuseAscentState(NamedTuple):
    r"""State of :func:`reuse_ascent`.

    Attributes:
      count: updates made so far, which drives a schedule of rho. int32, ().
      info: what the last update saw; ``ascent_norm`` is that of :math:`v_{t-1}`.
      ascent: :math:`v_t`, which the next update climbs, like the parameters.
    """

    count: jax.Array
    info: SharpnessInfo
    ascent: chex.ArrayTree


class LookSAMState(NamedTuple):
    r"""State of :func:`looksam`.

    Attributes:
      phase: updates since the last exact one, that one included; 0 if the next is
        exact. int32, ().
      inner: state of the exact method.
      sideways: :math:`v`, like the parameters.
    """

    phase: jax.Array
    inner: Any
    sideways: chex.ArrayTree


def reuse_ascent(
    class_weights: ClassValues = 1.0,
    *,
    rho: Rho,
    lam: chex.Numeric = 1.0,
    adaptive: bool = False,
    mask: Mask = None,
    axis_name: AxisName = None,
    has_aux: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Approximate: SAM, ImbSAM or Focal-SAM, climbing by the last step's gradient.

    .. math::
      \epsilon_t = \rho \, v_{t-1} / \lVert v_{t-1} \rVert_2, \qquad
      v_t = \nabla \sum_c s_c L_c(\theta_t + \epsilon_t), \qquad v_0 = 0

    .. math::
      G = \nabla \sum_c (1 - \lambda s_c) L_c(\theta_t) + \lambda v_t

    The gradient at the perturbed point is there anyway, and tells the next step where
    to climb: nothing has to be differentiated at :math:`\theta` before. A step costs
    two forwards and two backwards, or two and one where every :math:`\lambda s_c` is 1
    and known beforehand, as in SAM. The first step is plain, and so is one after a
    batch without examples of a class that weighs anything, or after a gradient that was
    not finite, which is not kept. The less two batches are alike, the poorer the
    direction.

    The transformation makes the whole gradient by itself and drops the updates that
    come in, so it must stand **first** in a chain: clipping before it would be lost.
    With ``evaluation`` that is checked, the updates must be ``evaluation.grads``;
    without, it cannot be, and any tree like the parameters is taken. Under ``jax.jit``
    the compiler removes the caller's backward pass, which is not needed. Without
    ``evaluation`` the caller's forward pass is a third one in networks where the
    compiler cannot merge it with the one here.

    Args:
      class_weights: :math:`s`, shape ``(num_classes,)``, from
        :func:`focal_sam_jax.focal_weights` or :func:`focal_sam_jax.tail_weights`; a
        scalar weighs all classes alike, and 1 with ``lam=1`` is SAM.
      rho: radius of the perturbation: a scalar >= 0, traced or not, or an Optax
        schedule of the update count.
      lam: strength of the correction, a scalar >= 0. Zero is the plain gradient.
      adaptive: as in :func:`focal_sam_jax.focal_sam`.
      mask: as in :func:`focal_sam_jax.focal_sam`.
      axis_name: the ``pmap`` or ``shard_map`` axis, or tuple of axes, over which the
        batch is split; gradient and :math:`v` are means over it.
      has_aux: whether the loss function returns ``(losses, aux)``; ``aux`` is dropped.

    Returns:
      An Optax transformation that is used as :func:`focal_sam_jax.focal_sam` is. Its
      state has ``count`` and ``info``, as there, and :math:`v`.

    Raises:
      ValueError: if ``rho`` or ``lam`` is negative or not finite, or the weights are
        not finite; in ``update`` as :func:`focal_sam_jax.sharpness_aware`, and if the
        updates are not those of the evaluation.
      TypeError: as :func:`focal_sam_jax.focal_sam`.

    Example:
      >>> import jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> tx = fsam.reuse_ascent(rho=0.1)
      >>> params = jnp.array([3.0, 4.0])
      >>> here = fsam.evaluate(lambda p: 0.5 * jnp.sum(p**2), params)
      >>> first, state = tx.update(
      ...     here.grads, tx.init(params), params, evaluation=here)
      >>> bool(jnp.allclose(first, params))  # nothing to climb by yet
      True
      >>> second, state = tx.update(here.grads, state, params, evaluation=here)
      >>> bool(jnp.allclose(second, params * 1.02))  # as SAM, on the same batch
      True

    References:
      Becker et al., `Momentum-SAM <https://arxiv.org/abs/2401.12033>`_, 2024, which
      climbs along the momentum; Xie et al., `SAMPa: Sharpness-aware Minimization
      Parallelized <https://arxiv.org/abs/2410.10683>`_, NeurIPS 2024, by the gradient
      of an earlier step, as here
    """
    check_rho(rho)
    check_scalar("lam", lam)
    weights, num_classes = weights_and_classes(class_weights)
    # All of the loss climbs, and none of it is differentiated at θ.
    all_climbs = (
        np.ndim(weights) == 0
        and is_concrete((weights, lam))
        and float(weights * lam) == 1
    )

    def init(params):
        return ReuseAscentState(
            jnp.zeros((), jnp.int32), as_info(0.0, 0.0), optax.tree.zeros_like(params)
        )

    def update(updates, state, params: Any = None, **extra_args: Any):
        f, evaluation = map(extra_args.get, ("per_class_loss_fn", "evaluation"))
        has_loss = f is not None or evaluation is not None
        check_composition("reuse_ascent", updates, params, mask, has_loss=has_loss)
        here, loss = at_theta(
            evaluation,
            f,
            params,
            num_classes,
            has_aux=has_aux,
            labels=extra_args.get("per_example_labels"),
            axis_name=axis_name,
        )
        if evaluation is not None and not is_in_multi_steps():
            _check_first(updates, evaluation.grads)
        rho_now = radius(rho, state.count)
        at_home = None
        if not all_climbs:
            at_home = here.pullback(1 - lam * weights)
            rho_now = after(at_home, rho_now)
        point = perturb(
            here.params,
            in_form_of(here.params, state.ascent),
            rho_now,
            adaptive=adaptive,
            selected=in_form_of(here.params, resolve_mask(mask, params)),
        )
        there = forward(loss, point.params, axis_name)
        climbed = jax.tree.map(widen, there.pullback(weights))
        gradient = climbed
        if at_home is not None:
            gradient = jax.tree.map(lambda h, c: widen(h) + lam * c, at_home, climbed)
        rise = jnp.sum(weights * (there.losses - here.losses))
        gradient, climbed, length, rise = device_mean(
            (gradient, climbed, point.norm, rise), axis_name
        )
        updates = jax.tree.map(
            lambda g, u: g.astype(u.dtype), in_form_of(updates, gradient), updates
        )
        climbed = in_form_of(params, climbed)
        ascent = _where(jnp.isfinite(norm(climbed)), climbed, like=params)
        count = jnp.asarray(optax.safe_increment(state.count))
        return updates, ReuseAscentState(count, as_info(length, rise), ascent)

    return optax.GradientTransformationExtraArgs(init, update)


def looksam(
    tx: optax.GradientTransformation,
    *,
    every: int = 5,
    alpha: chex.Numeric = 0.7,
) -> optax.GradientTransformationExtraArgs:
    r"""Approximate: LookSAM, an exact method in every ``every``-th step only.

    There, with :math:`g` the plain gradient and :math:`G` that of ``tx``, it keeps what
    the method adds across the plain gradient; in the steps between, it adds that again:

    .. math::
      v = G - \frac{\langle G, g \rangle}{\lVert g \rVert_2^2} \, g, \qquad
      G = g + \alpha \, \frac{\lVert g \rVert_2}{\lVert v \rVert_2} \, v

    The first step is exact. With ``every=1`` all are, and with nothing to add across
    :math:`g` the steps between are plain. A step between costs what a plain one does;
    an exact one, whose passes run inside a ``jax.lax.cond``, what ``tx`` alone costs
    with ``evaluation``; without, one forward more, and for SAM one backward more too.
    On CPU, XLA runs convolutions inside a ``cond`` many times slower.

    Args:
      tx: the method: :func:`focal_sam_jax.focal_sam` or one of its relatives.
      every: steps from one exact step to the next, an int >= 1.
      alpha: length of what is added in the steps between, relative to the plain
        gradient, a scalar >= 0. The default is that in the example of a public
        implementation in PyTorch (``rollovd/LookSAM``), not one of this library's.

    Returns:
      An Optax transformation that is used as ``tx`` is, under ``jax.jit``; without, the
      ``cond`` is compiled anew in every step. In its state are that of ``tx``, whose
      counter, and with it a schedule of rho, counts exact steps alone, and whose
      ``info`` is of the last exact step, and :math:`v`. Under ``jax.vmap`` over states
      both branches run: the numbers are right, and nothing is saved.

    Raises:
      ValueError: if ``every`` is less than 1, or ``alpha`` negative or not finite; in
        ``update`` as ``tx``.
      TypeError: if ``every`` is not an int.

    Example:
      >>> import jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> tx = fsam.looksam(fsam.sam(rho=0.1), every=2, alpha=0.5)
      >>> params = jnp.array([1.0, 1.0])
      >>> here = fsam.evaluate(lambda p: jnp.sum(jnp.array([0.5, 1.0]) * p**2), params)
      >>> exact, state = tx.update(
      ...     here.grads, tx.init(params), params, evaluation=here)
      >>> between, state = tx.update(here.grads, state, params, evaluation=here)
      >>> across = between - here.grads
      >>> bool(jnp.allclose(across @ here.grads, 0, atol=1e-5))
      True
      >>> bool(jnp.allclose(across @ across, 0.5**2 * here.grads @ here.grads))
      True

    References:
      Liu et al., `Towards Efficient and Scalable Sharpness-Aware Minimization
      <https://arxiv.org/abs/2203.02714>`_, CVPR 2022
    """
    if isinstance(every, bool) or not isinstance(every, int | np.integer):
        raise TypeError(
            f"every must be an int >= 1, got {every!r}; which steps are exact is "
            "decided when the transformation is built."
        )
    if every < 1:
        raise ValueError(
            f"every must be an int >= 1, got {every}; 1 makes every step exact."
        )
    check_scalar("alpha", alpha)
    every = int(every)
    tx = optax.with_extra_args_support(tx)

    def init(params):
        return LookSAMState(
            jnp.zeros((), jnp.int32), tx.init(params), optax.tree.zeros_like(params)
        )

    def update(updates: Any, state, params: Any = None, **extra_args):
        def exact():
            corrected, inner = tx.update(updates, state.inner, params, **extra_args)
            return corrected, inner, _across(corrected, updates, like=state.sideways)

        def between():
            across = jax.tree.map(widen, state.sideways)
            length = alpha * _ratio(norm(updates), norm(across))
            return add_correction(updates, across, length), state.inner, state.sideways

        updates, inner, sideways = cond(state.phase == 0, exact, between)
        return updates, LookSAMState((state.phase + 1) % every, inner, sideways)

    return optax.GradientTransformationExtraArgs(init, update)


def _check_first(updates, grads):
    pairs = zip(jax.tree.leaves(updates), jax.tree.leaves(grads), strict=True)
    if not all(update is gradient for update, gradient in pairs):
        raise ValueError(
            "reuse_ascent makes the whole gradient by itself and must stand first in a "
            "chain, got updates that are not evaluation.grads: what was done to them, "
            "clipping for instance, would be lost. Do it after reuse_ascent."
        )


def _across(corrected, plain, like):
    """The part of ``corrected`` that is orthogonal to ``plain``."""
    size = norm(plain)
    unit = jax.tree.map(lambda g: widen(g) * _ratio(1.0, size), plain)
    # Of the correction, not of the whole: most digits of the whole are those of g.
    added = jax.tree.map(lambda a, g: widen(a) - widen(g), corrected, plain)
    along = optax.tree.sum(jax.tree.map(lambda a, u: jnp.sum(a * u), added, unit))
    across = jax.tree.map(lambda a, u: a - along * u, added, unit)
    # What rounding alone could have left would be blown up to the length of g. The
    # comparison also fails for what is not finite.
    leaves = jax.tree.leaves(plain)
    digits = max((float(jnp.finfo(g.dtype).eps) for g in leaves), default=0)
    significant = norm(across) > digits * size + digits * norm(corrected)
    return _where(significant, across, like)


def _where(condition, tree, like):
    """``tree`` or zero, in the dtypes of ``like``."""
    return jax.tree.map(
        lambda t, p: jnp.where(condition, t, 0).astype(p.dtype), tree, like
    )


def _ratio(numerator, denominator):
    """Zero where there is nothing to divide by."""
    empty = denominator == 0
    return jnp.where(empty, 0, numerator / jnp.where(empty, 1, denominator))
