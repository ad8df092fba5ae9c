r"""Balls around the parameters, and how to move in them.

A ball is :math:`\lVert T^{-1} \epsilon \rVert_2 \leq \rho` with :math:`T = 1`, or,
adaptive, :math:`T = |\theta|` entry by entry, which does not change when weights are
rescaled and the network stays the same function. A point in it is
:math:`\theta + T u` with the offset :math:`\lVert u \rVert_2 \leq \rho`.
"""

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from focal_sam_jax._perturbation import perturb, widen


class Ball(NamedTuple):
    r"""Points :math:`\theta + T u` around the parameters, by their offset :math:`u`."""

    params: chex.ArrayTree
    adaptive: bool

    @property
    def centre(self) -> chex.ArrayTree:
        """No offset."""
        return jax.tree.map(lambda leaf: jnp.zeros_like(widen(leaf)), self.params)

    def point(self, offset: chex.ArrayTree) -> chex.ArrayTree:
        r""":math:`\theta + T u`, in the dtypes of the parameters."""
        return _point(self.params, offset, self.adaptive)

    def climbed(
        self,
        offset: chex.ArrayTree,
        gradient: chex.ArrayTree,
        length: chex.Numeric,
        rho: chex.Numeric,
    ) -> chex.ArrayTree:
        """Further along the gradient by the parameters, but not out of the ball."""
        return _climbed(self.params, offset, gradient, length, rho, self.adaptive)

    def gaussian(self, key: jax.Array, rho: chex.Numeric) -> chex.ArrayTree:
        """An offset whose squared length is that of ``rho`` on average."""
        return _gaussian(key, self.centre, rho)

    def on_sphere(self, key: jax.Array, rho: chex.Numeric) -> chex.ArrayTree:
        """An offset of that length in a random direction."""
        return perturb(self.centre, self.gaussian(key, 1.0), rho).params


# Each is one call, where the loops around them run on the host.
@partial(jax.jit, static_argnums=2)
def _point(params, offset, adaptive):
    return jax.tree.map(
        lambda theta, step: (widen(theta) + step).astype(theta.dtype),
        params,
        _scaled(params, offset, adaptive),
    )


@partial(jax.jit, static_argnums=5)
def _climbed(params, offset, gradient, length, rho, adaptive):
    # By the chain rule the gradient by the offset is T times that by the parameters.
    uphill = _scaled(params, gradient, adaptive)
    offset = perturb(offset, uphill, length).params
    norm = optax.tree.norm(offset)
    factor = jnp.where(norm > rho, rho / jnp.where(norm > 0, norm, 1), 1)
    return jax.tree.map(lambda leaf: factor * leaf, offset)


@jax.jit
def _gaussian(key, like, rho):
    size = sum(leaf.size for leaf in jax.tree.leaves(like))
    normal = optax.tree.random_like(key, like, sampler=jax.random.normal)
    return jax.tree.map(lambda leaf: rho / size**0.5 * leaf, normal)


def _scaled(params, tree, adaptive):
    if not adaptive:
        return tree
    return jax.tree.map(
        lambda theta, leaf: jnp.abs(widen(theta)) * widen(leaf), params, tree
    )
