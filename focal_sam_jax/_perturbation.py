"""The ascent step: from the parameters to the worst point nearby, to first order."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

Mask = chex.ArrayTree | Callable[[chex.ArrayTree], chex.ArrayTree] | None


class Perturbed(NamedTuple):
    r"""A point on the sphere around the parameters.

    Attributes:
      params: :math:`\theta + \epsilon`, like the parameters.
      norm: length of the (scaled) ascent gradient over the mask, float32 or wider, ().
      moved: whether :math:`\epsilon \neq 0`, bool, ().
    """

    params: chex.ArrayTree
    norm: jax.Array
    moved: jax.Array


def perturb(
    params: chex.ArrayTree,
    gradient: chex.ArrayTree,
    rho: chex.Numeric,
    *,
    adaptive: bool = False,
    mask: Mask = None,
) -> Perturbed:
    r"""Climbs the length :math:`\rho` along the gradient.

    .. math::
      \epsilon = \rho \, \frac{T^2 g}{\lVert T g \rVert_2}, \qquad
      T = 1 \text{ (SAM)} \quad\text{or}\quad T = |\theta| \text{ (adaptive: ASAM)}

    Norm and step are computed in float32 or wider whatever the parameters' dtype, and
    the norm runs over the masked leaves only. A zero gradient has no direction:
    :math:`\epsilon = 0` there.

    Args:
      params: :math:`\theta`, a tree of float arrays.
      gradient: :math:`g`, a tree like ``params``.
      rho: radius, scalar.
      adaptive: scale the ball by the parameters.
      mask: leaves to perturb, see :func:`resolve_mask`.

    Returns:
      The perturbed parameters, the norm, and whether anything moved.

    References:
      Foret et al., `Sharpness-Aware Minimization for Efficiently Improving
      Generalization <https://arxiv.org/abs/2010.01412>`_, ICLR 2021, eq. 2;
      Kwon et al., `ASAM <https://arxiv.org/abs/2102.11600>`_, ICML 2021, eq. 11
    """
    selected = resolve_mask(mask, params)

    def scale(theta):
        return jnp.abs(widen(theta)) if adaptive else jnp.ones((), widen(theta).dtype)

    scaled = jax.tree.map(
        lambda keep, theta, g: scale(theta) * widen(g) if keep else None,
        selected,
        params,
        gradient,
    )
    norm = optax.tree.norm(scaled)
    length = jnp.where(norm > 0, rho / jnp.where(norm > 0, norm, 1), 0)

    def climb(keep, theta, step):
        # An untouched leaf stays the very same array, so that the compiler can share
        # what depends on it between the two passes.
        if not keep:
            return theta
        return (widen(theta) + length * scale(theta) * step).astype(theta.dtype)

    perturbed = jax.tree.map(climb, selected, params, scaled)
    return Perturbed(perturbed, norm, moved=length != 0)


def resolve_mask(mask: Mask, params: chex.ArrayTree) -> chex.ArrayTree:
    """A tree of Python bools with the structure of ``params``.

    Args:
      mask: ``None`` for all leaves; a tree of bools like ``params`` or a prefix of it;
        or a function from ``params`` to such a tree. The form ``optax.masked`` takes.
      params: the parameters.

    Raises:
      ValueError: if the structures do not match.
      TypeError: if a leaf of the mask is not a bool.
    """
    tree = mask(params) if callable(mask) else mask
    if tree is None:
        tree = True
    for leaf in jax.tree.leaves(tree):
        if not isinstance(leaf, bool | np.bool_):
            raise TypeError(
                "mask must have Python bools as leaves (True: perturb this array), got "
                f"{leaf!r}; which arrays are perturbed is decided once, not per step."
            )
    try:
        return jax.tree.broadcast(tree, params)
    except ValueError as error:
        raise ValueError(
            "mask must have the structure of the parameters, or a prefix of it: "
            f"{error}"
        ) from None


def widen(array: chex.Array) -> jax.Array:
    """``array`` in its dtype, but at least float32."""
    return jnp.asarray(array, jnp.promote_types(array.dtype, jnp.float32))
