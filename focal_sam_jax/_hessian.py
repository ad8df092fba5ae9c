"""The Hessian of a weighted loss, known by its products with vectors alone."""

from collections.abc import Callable

import chex
import jax
from jax.flatten_util import ravel_pytree

from focal_sam_jax._class_losses import ClassLosses
from focal_sam_jax._perturbation import widen


def hessian(
    losses: ClassLosses, params: chex.ArrayTree, class_weights: chex.Numeric
) -> tuple[
    Callable[[jax.Array], jax.Array],
    jax.Array,
    Callable[[jax.Array], chex.ArrayTree],
]:
    """The Hessian's product with a vector, such a vector, and a vector as a tree.

    Vectors are in float32 or wider, trees in the dtypes of the parameters.
    """
    _, unravel = ravel_pytree(jax.tree.map(widen, params))

    def product(vector):
        tangent = _as_tangent(vector, params)
        return _as_vector(losses.product(params, class_weights, tangent))

    return product, _as_vector(params), unravel


@jax.jit
def _as_vector(tree):
    return ravel_pytree(jax.tree.map(widen, tree))[0]


@jax.jit
def _as_tangent(vector, params):
    _, unravel = ravel_pytree(jax.tree.map(widen, params))
    return jax.tree.map(
        lambda leaf, theta: leaf.astype(theta.dtype), unravel(vector), params
    )
