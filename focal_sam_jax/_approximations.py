r"""Cheaper approximations of the methods, which reuse gradients of earlier steps.

:func:`reuse_ascent` takes the ascent direction from the previous step.
:func:`looksam` takes the correction from an earlier step in most steps. Both keep one
tree in the shapes and dtypes of the parameters, which are those of the gradients.
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
    warn_of_counts,
)
from focal_sam_jax._devices import AxisName, cond, device_mean, varying_like
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
      count: number of updates so far, the argument of a schedule of rho. int32, ().
      info: statistics of the last update; ``ascent_norm`` is that of :math:`v_{t-1}`.
      ascent: :math:`v_t`, the ascent direction of the next update, a tree like the
        parameters.
    """

    count: jax.Array
    info: SharpnessInfo
    ascent: chex.ArrayTree


class LookSAMState(NamedTuple):
    r"""State of :func:`looksam`.

    Attributes:
      phase: number of updates since the last exact one, including it; 0 if the next
        update is exact. int32, ().
      inner: state of the exact method.
      sideways: :math:`v`, a tree like the parameters.
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
    r"""Approximates SAM, ImbSAM or Focal-SAM with the last step's ascent direction.

    .. math::
      \epsilon_t = \rho \, v_{t-1} / \lVert v_{t-1} \rVert_2, \qquad
      v_t = \nabla \sum_c s_c L_c(\theta_t + \epsilon_t), \qquad v_0 = 0

    .. math::
      G = \nabla \sum_c (1 - \lambda s_c) L_c(\theta_t) + \lambda v_t

    The gradient at the perturbed point is computed anyway. The next step uses it as
    its ascent direction, so the perturbation needs no gradient at :math:`\theta`. A
    step costs two forward and two backward passes, or two and one if every
    :math:`\lambda s_c` is known beforehand to be 1, as in SAM. The update is the
    plain gradient in the first step, after a batch without examples of classes with
    nonzero weight, and after a non-finite gradient, which is not kept. The less similar
    two batches are, the worse the direction is.

    The transformation computes the whole gradient and ignores the incoming updates. It
    must therefore be **first** in a chain: clipping before it would have no effect.
    With ``evaluation`` this is checked: the updates must be ``evaluation.grads``.
    Without, any tree like the parameters is accepted. Under ``jax.jit`` the compiler
    removes the caller's unused backward pass. Without ``evaluation`` the caller's
    forward pass is a third one, unless the compiler can merge it with the one here.

    Args:
      class_weights: :math:`s`, shape ``(num_classes,)``, from
        :func:`focal_sam_jax.focal_weights` or :func:`focal_sam_jax.tail_weights`; a
        scalar gives all classes the same weight, and 1 with ``lam=1`` is SAM.
      rho: radius of the perturbation: a scalar >= 0, traced or not, or an Optax
        schedule of the update count.
      lam: strength of the correction, a scalar >= 0. Zero gives the plain gradient.
      adaptive: as in :func:`focal_sam_jax.focal_sam`.
      mask: as in :func:`focal_sam_jax.focal_sam`.
      axis_name: the ``pmap`` or ``shard_map`` axis, or tuple of axes, over which the
        batch is split; the gradient and :math:`v` are means over it.
      has_aux: whether the loss function returns ``(losses, aux)``; ``aux`` is dropped.

    Returns:
      An Optax transformation, used like :func:`focal_sam_jax.focal_sam`. Its state
      has the same ``count`` and ``info``, and :math:`v`.

    Raises:
      ValueError: if ``rho`` or ``lam`` is negative or not finite, or the weights are
        not finite; in ``update`` as :func:`focal_sam_jax.sharpness_aware`, and if the
        updates are not ``evaluation.grads``.
      TypeError: as :func:`focal_sam_jax.focal_sam`.

    Example:
      >>> import jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> tx = fsam.reuse_ascent(rho=0.1)
      >>> params = jnp.array([3.0, 4.0])
      >>> here = fsam.evaluate(lambda p: 0.5 * jnp.sum(p**2), params)
      >>> first, state = tx.update(
      ...     here.grads, tx.init(params), params, evaluation=here)
      >>> bool(jnp.allclose(first, params))  # no perturbation yet
      True
      >>> second, state = tx.update(here.grads, state, params, evaluation=here)
      >>> bool(jnp.allclose(second, params * 1.02))  # as SAM, on the same batch
      True

    References:
      Becker et al., `Momentum-SAM <https://arxiv.org/abs/2401.12033>`_, 2024, which
      perturbs along the momentum; Xie et al., `SAMPa: Sharpness-aware Minimization
      Parallelized <https://arxiv.org/abs/2410.10683>`_, NeurIPS 2024, which perturbs
      along the gradient of an earlier step, as here
    """
    check_rho(rho)
    check_scalar("lam", lam)
    weights, num_classes = weights_and_classes(class_weights)
    warn_of_counts(class_weights)
    # Every λ s_c is 1: the gradient at θ has weight zero and is not computed.
    all_climbs = (
        np.ndim(weights) == 0
        and is_concrete((weights, lam))
        and float(weights * lam) == 1
    )

    def init(params):
        info = varying_like(as_info(0.0, 0.0), params, axis_name)
        return ReuseAscentState(
            jnp.zeros((), jnp.int32), info, optax.tree.zeros_like(params)
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
    r"""Approximates ``tx`` by LookSAM: exact in every ``every``-th step only.

    Let :math:`g` be the plain gradient and :math:`G` that of ``tx``. An exact step
    stores :math:`v`, the part of :math:`G` orthogonal to :math:`g`. The steps between
    are approximate: they add the rescaled :math:`v` to their own :math:`g`.

    .. math::
      v = G - \frac{\langle G, g \rangle}{\lVert g \rVert_2^2} \, g, \qquad
      G = g + \alpha \, \frac{\lVert g \rVert_2}{\lVert v \rVert_2} \, v

    The first step is exact; with ``every=1`` all steps are. If :math:`v = 0`,
    approximate steps use the plain gradient. They cost the same as plain steps. An
    exact step runs its passes inside a ``jax.lax.cond``. It costs the same as ``tx``
    with ``evaluation``; without, one more forward pass, and for SAM also one more
    backward pass. On CPU, XLA runs convolutions inside a ``cond`` many times slower.

    Args:
      tx: the method: :func:`focal_sam_jax.focal_sam` or one of its relatives.
      every: number of steps from one exact step to the next, an int >= 1.
      alpha: norm of the added vector in approximate steps, relative to the plain
        gradient, a scalar >= 0. The default comes from the example of a public PyTorch
        implementation (``rollovd/LookSAM``).

    Returns:
      An Optax transformation, used like ``tx``, but under ``jax.jit``: otherwise the
      ``cond`` is compiled again in every step. Its state holds :math:`v` and the state
      of ``tx``, whose counter and schedule of rho advance in exact steps only, and
      whose ``info`` describes the last exact step. Under ``jax.vmap`` over states both
      branches run: the results are correct, but no time is saved.

    Raises:
      ValueError: if ``every`` is less than 1, or ``alpha`` is negative or not finite;
        in ``update`` as ``tx``.
      TypeError: if ``every`` is not an int or ``alpha`` is not a number; in ``update``
        as ``tx``.

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
            f"every must be an int >= 1, got {every!r}; it must be known when the "
            "transformation is built."
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
            "reuse_ascent computes the whole gradient itself and must come first in a "
            "chain, got updates that are not evaluation.grads: changes to them, such "
            "as clipping, would be lost. Make them after reuse_ascent."
        )


def _across(corrected, plain, like):
    """Returns the part of ``corrected`` orthogonal to ``plain``, or zero if tiny."""
    size = norm(plain)
    unit = jax.tree.map(lambda g: widen(g) * _ratio(1.0, size), plain)
    # Projects the correction, not the whole gradient, whose digits are mostly g's.
    added = jax.tree.map(lambda a, g: widen(a) - widen(g), corrected, plain)
    along = optax.tree.sum(jax.tree.map(lambda a, u: jnp.sum(a * u), added, unit))
    across = jax.tree.map(lambda a, u: a - along * u, added, unit)
    # A rounding residue must not be scaled up to the norm of g. The comparison is also
    # false for non-finite values.
    leaves = jax.tree.leaves(plain)
    digits = max((float(jnp.finfo(g.dtype).eps) for g in leaves), default=0)
    significant = norm(across) > digits * size + digits * norm(corrected)
    return _where(significant, across, like)


def _where(condition, tree, like):
    """Returns ``tree`` where ``condition``, else zero, in the dtypes of ``like``."""
    return jax.tree.map(
        lambda t, p: jnp.where(condition, t, 0).astype(p.dtype), tree, like
    )


def _ratio(numerator, denominator):
    """Returns ``numerator / denominator``, or zero if the denominator is zero."""
    empty = denominator == 0
    return jnp.where(empty, 0, numerator / jnp.where(empty, 1, denominator))
