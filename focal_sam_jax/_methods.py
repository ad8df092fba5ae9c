r"""The two corrections that make a plain gradient sharpness-aware.

The loss of a batch is a sum over classes, :math:`L = \sum_c L_c`. A method either
weights the classes,

.. math::
  g_s = \nabla \sum_c s_c L_c(\theta), \qquad
  \epsilon = \rho \, g_s / \lVert g_s \rVert_2, \qquad
  G = \nabla L(\theta) + \lambda
      \Big[ \nabla \sum_c s_c L_c(\theta + \epsilon) - g_s \Big]

or computes a separate perturbation for every group :math:`k` of classes,

.. math::
  \epsilon_k = \rho_k \, \nabla L_k / \lVert \nabla L_k \rVert_2, \qquad
  G = \nabla L(\theta) + \alpha
      \Big[ \sum_k \nabla L_k(\theta + \epsilon_k) - \nabla L(\theta) \Big],
  \qquad L_k = \sum_{c \in k} L_c

The bracket is the correction.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from focal_sam_jax._devices import AxisName, device_mean
from focal_sam_jax._evaluation import Forward, Loss, forward
from focal_sam_jax._perturbation import norm, perturb, widen

# Maximum number of network copies, one per group, that compile in reasonable time.
_MAX_UNROLLED_GROUPS = 32
# Maximum share of perturbed weights for which every group has its own copy of them.
_FEW = 0.1


class Correction(NamedTuple):
    r"""Correction of the plain gradient, before multiplication by :math:`\lambda`.

    Attributes:
      gradient: this device's correction, a tree like the parameters, float32 or wider.
      ascent_norm: norm of the ascent gradient, ().
      sharpness: increase of the weighted loss from θ to θ + ε, ().
    """

    gradient: chex.ArrayTree
    ascent_norm: jax.Array
    sharpness: jax.Array


def class_weighted_correction(
    loss: Loss,
    here: Forward,
    class_weights: chex.Numeric,
    rho: chex.Numeric,
    *,
    plain: chex.ArrayTree,
    adaptive: bool,
    selected: chex.ArrayTree,
    axis_name: AxisName,
    sync_perturbation: bool,
) -> Correction:
    r"""Computes :math:`\nabla \sum_c s_c L_c(\theta + \epsilon) - g_s`.

    Args:
      loss: the loss function.
      here: the forward pass at θ.
      class_weights: :math:`s`, a scalar or shape ``(num_classes,)``.
      rho: radius of the perturbation, scalar.
      plain: plain gradient. The pass at θ + ε waits for it, so that the activations of
        both are not in memory together.
      adaptive: as in :func:`~focal_sam_jax._perturbation.perturb`.
      selected: as in :func:`~focal_sam_jax._perturbation.perturb`.
      axis_name: the axis, or axes, over which the batch is split.
      sync_perturbation: perturb by the mean gradient of all devices, not by each
        device's own.

    Returns:
      The correction; exactly zero if the perturbation is zero.
    """
    ascent = here.weighted(class_weights)
    uphill = device_mean(ascent, axis_name) if sync_perturbation else ascent
    if np.ndim(class_weights) > 0:  # with one weight, ascent depends on the plain pass
        # Elementwise, so that sharded arrays keep their sharding.
        uphill = jax.tree.map(
            lambda u, g: jnp.where(jnp.isnan(g), jnp.nan, u), uphill, plain
        )
    point = perturb(here.params, uphill, rho, adaptive=adaptive, selected=selected)
    there = forward(loss, point.params, axis_name)
    gradient = jax.tree.map(
        lambda a, b: jnp.where(point.moved, widen(a) - widen(b), 0),
        there.pullback(class_weights),
        ascent,
    )
    weights = jnp.asarray(class_weights, here.losses.dtype)
    rise = jnp.sum(weights * (there.losses - here.losses))
    return Correction(gradient, point.norm, rise)


class _Sums(NamedTuple):
    """Sums over the groups.

    Attributes:
      gradient: sum of this device's perturbed gradients, a tree like the parameters.
      norm: root of the sum of the squared norms of the groups' gradients, ().
      rise: sum of the increases of the groups' losses, ().
      moved: whether any perturbation is nonzero, bool, ().
    """

    gradient: chex.ArrayTree
    norm: jax.Array
    rise: jax.Array
    moved: jax.Array


def class_conditional_correction(
    loss: Loss,
    here: Forward,
    radii: jax.Array,
    groups: np.ndarray,
    *,
    selected: chex.ArrayTree,
    axis_name: AxisName,
) -> Correction:
    r"""Computes :math:`\sum_k \nabla L_k(\theta + \epsilon_k) - \nabla L(\theta)`.

    The sum is computed in one of four ways:

    - *Of functions*: if the loss is a sequence of functions, each group calls its own.
    - *Side by side*: if a mask perturbs few weights, such as the last layer, and the
      number of groups is moderate. The layers before these weights are computed once.
    - *Written out*: for one or two groups, and on CPU for a moderate number, since
      loops and conditionals around convolutions are far slower there than convolutions
      alone. All groups' gradients at θ are computed first, from one set of
      activations, and held.
    - *In a loop* otherwise. Its memory does not grow with the number of groups. It
      skips groups whose radius is zero or whose loss is zero on all devices. It
      recomputes the activations at θ for every group; otherwise they would be in
      memory together with those at :math:`\theta + \epsilon_k`.

    Args:
      loss: the loss function.
      here: the forward pass at θ.
      radii: :math:`\rho_k`, shape ``(num_groups,)``.
      groups: group index of each class, ints, shape ``(num_classes,)``.
      selected: as in :func:`~focal_sam_jax._perturbation.perturb`.
      axis_name: the axis, or axes, over which the batch is split.

    Returns:
      The correction. Its ascent norm is the root of the sum of the groups' squared
      norms, its sharpness :math:`\sum_k L_k(\theta + \epsilon_k) - L_k(\theta)`.
    """
    nothing = jnp.zeros_like(here.losses[0])  # varies over devices as the losses do
    sums = _Sums(
        gradient=jax.tree.map(lambda p: jnp.zeros_like(widen(p)), here.params),
        norm=nothing,
        rise=nothing,
        moved=jnp.zeros_like(nothing, bool),
    )
    # Row k holds ones for the classes of group k.
    members = np.arange(len(radii))[:, None] == groups[None, :]
    members = members.astype(here.losses.dtype)
    moderate = len(radii) <= _MAX_UNROLLED_GROUPS
    written_out = len(radii) <= 2 or (jax.default_backend() == "cpu" and moderate)
    visit = partial(_visit, selected=selected, axis_name=axis_name)
    if loss.of_class is not None:
        way = _of_functions
    elif moderate and 0 < _perturbed_share(selected, here.params) <= _FEW:
        way = _side_by_side
    else:
        way = _written_out if written_out else _in_a_loop
    sums, plain = way(visit, sums, loss, here, radii, members, selected, axis_name)
    gradient = jax.tree.map(
        lambda a, b: jnp.where(sums.moved, a - widen(b), 0), sums.gradient, plain
    )
    return Correction(gradient, sums.norm, sums.rise)


# Each way returns the sums over the groups, and the plain gradient that is subtracted.


def _of_functions(visit, sums, loss, here, radii, members, selected, axis_name):
    del selected
    for member, radius in zip(members, radii, strict=True):
        group = [loss.of_class[c] for c in np.flatnonzero(member)]
        if group:
            own = _together(group)
            alone = forward(own, here.params, axis_name)
            uphill = device_mean(alone.plain, axis_name)
            sums = visit(sums, own, alone, uphill, np.ones(len(group)), radius)
    return sums, here.plain


def _together(losses):
    def raw(params):
        return jnp.concatenate([loss.raw(params)[0] for loss in losses]), None

    return Loss(raw)


def _perturbed_share(selected, params):
    """Returns the share of the weights that are perturbed."""
    climbing = jax.tree.map(lambda keep, p: p.size if keep else 0, selected, params)
    return sum(jax.tree.leaves(climbing)) / max(optax.tree.size(params), 1)


def _side_by_side(visit, sums, loss, here, radii, members, selected, axis_name):
    del visit
    climb = jax.vmap(here.pullback)(members)
    points = []
    for k, radius in enumerate(radii):
        own = jax.tree.map(lambda keep, g, k=k: g[k] if keep else None, selected, climb)
        uphill = device_mean(own, axis_name)
        points.append(perturb(here.params, uphill, radius, selected=selected))
    stacked = jax.tree.map(
        lambda keep, *of_groups: jnp.stack(of_groups) if keep else of_groups[0],
        selected,
        *(point.params for point in points),
    )
    axes = jax.tree.map(lambda keep: 0 if keep else None, selected)

    def raw(stacked):
        of_groups = jax.vmap(lambda theta: loss.raw(theta)[0], in_axes=(axes,))
        return of_groups(stacked), None

    def by_class(raw):
        return jax.vmap(loss.by_class)(raw).reshape(-1)

    there = forward(Loss(raw, by_class), stacked, axis_name)
    gradient = jax.tree.map(
        lambda keep, g: widen(g).sum(0) if keep else widen(g),
        selected,
        there.pullback(members.reshape(-1)),
    )
    rises = members * (there.losses.reshape(members.shape) - here.losses[None])
    sums = _Sums(
        gradient,
        norm([point.norm for point in points]).astype(sums.norm.dtype),
        jnp.sum(rises).astype(sums.rise.dtype),
        sums.moved | jnp.any(jnp.stack([point.moved for point in points])),
    )
    return sums, here.plain


def _written_out(visit, sums, loss, here, radii, members, selected, axis_name):
    # Traced once and inlined for every group.
    inlined = replace(loss, raw=jax.jit(lambda theta: (loss.raw(theta)[0], None)))
    uphills = []
    for member in members:
        climb = here.pullback(after(uphills[-1:], member))
        # Drops the other gradients, so that XLA does not compute them.
        climb = jax.tree.map(lambda keep, g: g if keep else None, selected, climb)
        uphills.append(device_mean(climb, axis_name))
    for member, uphill, radius in zip(members, uphills, radii, strict=True):
        radius = after((uphills[-1], sums.gradient), radius)
        sums = visit(sums, inlined, here, uphill, member, radius)
    return sums, here.plain


def _in_a_loop(visit, sums, loss, here, radii, members, selected, axis_name):
    present = device_mean((here.losses != 0).astype(members.dtype), axis_name)
    climbs = (members @ present > 0) & (radii != 0)
    # Only groups that are not skipped have their gradient at θ subtracted. The loop
    # subtracts it; with a mask the loop has only a part of it: it is computed here.
    whole = all(jax.tree.leaves(selected))
    if whole:
        plain = jax.tree.map(jnp.zeros_like, here.params)
    else:
        plain = here.pullback(climbs.astype(members.dtype) @ members)

    def visit_anew(sums, k):
        again = forward(loss, here.params, axis_name)
        member = jnp.asarray(members)[k]
        climb = again.pullback(member)
        less = climb if whole else None
        uphill = device_mean(climb, axis_name)
        return visit(sums, loss, again, uphill, member, radii[k], less=less)

    def visit_if_it_climbs(sums, k):
        return jax.lax.cond(climbs[k], visit_anew, lambda sums, k: sums, sums, k), None

    sums, _ = jax.lax.scan(visit_if_it_climbs, sums, jnp.arange(len(members)))
    return sums, plain


def _visit(
    sums, loss, here, uphill, member, radius, *, selected, axis_name, less=None
) -> _Sums:
    """Adds the perturbed gradient of the group ``member``, minus ``less`` if given."""
    point = perturb(here.params, uphill, radius, selected=selected)
    there = forward(loss, point.params, axis_name)
    gradient = jax.tree.map(widen, there.pullback(member))
    if less is not None:
        gradient = jax.tree.map(lambda g, b: g - widen(b), gradient, less)
    gradient = jax.tree.map(jnp.add, sums.gradient, gradient)
    rise = jnp.sum(member * (there.losses - here.losses))
    return _Sums(
        gradient,
        norm((sums.norm, point.norm)).astype(sums.norm.dtype),
        sums.rise + rise.astype(sums.rise.dtype),
        sums.moved | point.moved,
    )


def add_correction(
    gradient: chex.ArrayTree,
    correction: chex.ArrayTree,
    strength: chex.Numeric,
) -> chex.ArrayTree:
    """Adds ``strength * correction`` to ``gradient`` and keeps its form and dtypes."""
    leaves, structure = jax.tree.flatten(gradient)
    added = [
        (widen(g) + jnp.asarray(strength, c.dtype) * c).astype(g.dtype)
        for g, c in zip(leaves, jax.tree.leaves(correction), strict=True)
    ]
    return structure.unflatten(added)


def after(tree: chex.ArrayTree, value: chex.Numeric) -> jax.Array:
    """Returns ``value``, made to depend on the complete pass that computes ``tree``.

    Without this, two passes could run in parallel and both be in memory. Adding zero
    also works where an optimization barrier is dropped, as on CPU.
    """
    # All arrays, since any may be computed last; sums, since one element of an array
    # that is split over devices cannot be picked.
    total = sum(jnp.sum(widen(leaf)) for leaf in jax.tree.leaves(tree))
    never = (total < 0) & (total > 0)  # always false, which the compiler cannot know
    value = jnp.asarray(value)
    return value + jnp.asarray(never, value.dtype)
