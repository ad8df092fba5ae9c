"""The ascent step: from the parameters to the worst point nearby, to first order."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from focal_sam_jax._checks import at_least_float32

Mask = chex.ArrayTree | Callable[[chex.ArrayTree], chex.ArrayTree] | None


class Perturbed(NamedTuple):
    r"""A point on the sphere around the parameters.

    Attributes:
      params: :math:`\theta + \epsilon`, a tree like the parameters.
      norm: norm of the (scaled) ascent gradient over the mask, float32 or wider, ().
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
    selected: chex.ArrayTree | None = None,
) -> Perturbed:
    r"""Moves the parameters by the length :math:`\rho` along the gradient.

    .. math::
      \epsilon = \rho \, \frac{T^2 g}{\lVert T g \rVert_2}, \qquad
      T = 1 \text{ (SAM)} \quad\text{or}\quad T = |\theta| \text{ (adaptive: ASAM)}

    Norm and step are computed in float32 or wider. The norm runs over the selected
    leaves only. For a zero gradient, :math:`\epsilon` and its derivatives are zero.

    Args:
      params: :math:`\theta`, a tree of float arrays.
      gradient: :math:`g`, a tree like ``params``.
      rho: radius, scalar.
      adaptive: whether to scale the ball by the parameters.
      selected: leaves to perturb, bools like ``params``; ``None``: all.

    Returns:
      The perturbed parameters, the norm, and whether anything moved.

    References:
      Foret et al., `Sharpness-Aware Minimization for Efficiently Improving
      Generalization <https://arxiv.org/abs/2010.01412>`_, ICLR 2021, eq. 2;
      Kwon et al., `ASAM <https://arxiv.org/abs/2102.11600>`_, ICML 2021, eq. 11
    """
    if selected is None:
        selected = jax.tree.map(lambda leaf: True, params)

    def scale(theta):
        return jnp.abs(widen(theta)) if adaptive else jnp.ones((), widen(theta).dtype)

    scaled = jax.tree.map(
        lambda keep, theta, g: scale(theta) * widen(g) if keep else None,
        selected,
        params,
        gradient,
    )
    factor, root = _factor_and_root(scaled)
    some = root > 0
    rho = jnp.asarray(rho, root.dtype)
    length = jnp.where(some, rho / jnp.where(some, root, 1), 0)

    def climb(keep, theta, step):
        # An untouched leaf stays the very same array, so that the compiler can share
        # what depends on it between the two passes.
        if not keep:
            return theta
        wide = widen(theta)
        step = length * (factor * step.astype(length.dtype))
        return (wide + scale(theta) * step.astype(wide.dtype)).astype(theta.dtype)

    perturbed = jax.tree.map(climb, selected, params, scaled)
    return Perturbed(perturbed, root / factor, moved=length != 0)


def norm(tree: chex.ArrayTree) -> jax.Array:
    """Computes the L2 norm of the whole tree, in float32 or wider, ()."""
    factor, root = _factor_and_root(jax.tree.map(widen, tree))
    return root / factor


def _factor_and_root(tree):
    r"""Returns a power of two :math:`f` and :math:`\lVert f x \rVert_2`.

    The squares of float32 numbers above 1e19 or below 1e-19 are out of range. Three
    factors are tried at once; one whose sum of squares is in range is chosen.
    """
    leaves = jax.tree.leaves(tree)
    bits = max((jnp.finfo(leaf.dtype).bits for leaf in leaves), default=32)
    dtype = jnp.float64 if bits > 32 else jnp.float32
    largest = int(jnp.finfo(dtype).maxexp)
    low, limit = 2.0 ** -(5 * largest // 8), 2.0 ** (largest // 2 - 4)
    factors = jnp.asarray([1.0, low, 1 / low], dtype)
    parts = [jnp.zeros(3, dtype)]
    for leaf in leaves:
        scaled = factors.reshape(3, *[1] * leaf.ndim) * leaf.astype(dtype)[None]
        # Keeps the compiler from squaring the factors first, which overflows.
        scaled = jnp.minimum(scaled, limit)
        parts.append(jnp.sum(scaled**2, axis=tuple(range(1, scaled.ndim))))
    # Without the barrier XLA repeats these sums in all that depends on them, and takes
    # many times as long to compile on CPU.
    squares = jnp.sum(jax.lax.optimization_barrier(jnp.stack(parts)), axis=0)
    cut_off = squares >= limit**2
    choice = jnp.where(cut_off[0], 1, jnp.where(squares[0] < low, 2, 0))
    # If even the sum for the smallest factor is cut off, it is infinite.
    chosen = jnp.where(cut_off[1], jnp.inf, squares[choice])
    root = jnp.where(chosen == 0, 0, jnp.sqrt(jnp.where(chosen == 0, 1, chosen)))
    return factors[choice], root


def resolve_mask(mask: Mask, params: chex.ArrayTree) -> chex.ArrayTree:
    """Returns the mask as a tree of Python bools like ``params``.

    Args:
      mask: ``None`` for all leaves; a tree of bools like ``params`` or a prefix of it;
        or a function from ``params`` to such a tree. ``optax.masked`` takes the same.
      params: the parameters.

    Raises:
      ValueError: if the structures do not match, or nothing is selected.
      TypeError: if a leaf of the mask is not a bool.
    """
    # A module whose leaves are bools is a tree, even if it can be called.
    leaves = jax.tree.leaves(mask)
    is_tree = bool(leaves) and all(map(_is_bool, leaves))
    tree = mask(params) if callable(mask) and not is_tree else mask
    if tree is None:
        tree = True
    for leaf in jax.tree.leaves(tree):
        if not _is_bool(leaf):
            raise TypeError(
                "mask must have Python bools as leaves (True: perturb this array), got "
                f"{leaf!r}; which arrays are perturbed is decided once, not per step."
                f"{_INJECTED}"
            )
    try:
        selected = jax.tree.broadcast(tree, params)
    except ValueError as error:
        raise ValueError(
            "mask must have the structure of the parameters, or a prefix of it: "
            f"{error}"
        ) from None
    leaves = jax.tree.leaves(selected)
    if leaves and not any(leaves):
        raise ValueError(
            "mask must select something to perturb, got False for all parameters."
            f"{_INJECTED}"
        )
    return selected


_INJECTED = (
    ' Under optax.inject_hyperparams pass static_args="mask", or it treats a function '
    "as a schedule."
)


def _is_bool(leaf):
    return isinstance(leaf, bool | np.bool_)


def widen(array: chex.Array) -> jax.Array:
    """Returns ``array`` in its dtype, but at least float32."""
    return jnp.asarray(array, at_least_float32(array.dtype))
