r"""Lanczos: a large symmetric matrix, known by products, as a small tridiagonal one.

After m steps from a unit vector :math:`q_1`

.. math::
  H Q = Q T + \beta_m \, q_{m+1} e_m^T, \qquad Q^T Q = I

with the diagonal :math:`\alpha` and off-diagonal :math:`\beta` of :math:`T`. Its
eigenvalues soon find the outermost ones of :math:`H`; with the squares of the first
entries of its eigenvectors for weights, they are a Gauss quadrature for the spectrum of
:math:`H` as :math:`q_1` sees it.

Rounding lets :math:`Q` lose its orthogonality, so that eigenvalues come twice: every
new vector is made orthogonal to all before it, and once more. Where products lead no
further, a random vector does.

It is written here since products may come from batches on disk, one call after the
other, and the library needs no package but JAX, Optax and chex.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from focal_sam_jax._loops import repeat


class Tridiagonal(NamedTuple):
    r"""The small matrix, and where it comes from.

    Attributes:
      alpha: :math:`\alpha`, ``(m,)``.
      beta: :math:`\beta`, ``(m,)``; the last belongs to :math:`q_{m+1}`.
      basis: :math:`Q^T`, ``(m, n)``.
    """

    alpha: jax.Array
    beta: jax.Array
    basis: jax.Array

    def eigh(self) -> tuple[jax.Array, jax.Array]:
        """Its eigenvalues, rising, ``(m,)``, and eigenvectors, in columns."""
        off = self.beta[:-1]
        return jnp.linalg.eigh(
            jnp.diag(self.alpha) + jnp.diag(off, 1) + jnp.diag(off, -1)
        )


def lanczos(
    product: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    steps: int,
    key: jax.Array,
) -> Tridiagonal:
    """So many steps from ``start``.

    Args:
      product: from a vector to the matrix times it, float, ``(n,)``.
      start: any vector but zero, float, ``(n,)``.
      steps: m, at most n; as many products are made, and as many vectors kept.
      key: for the vectors where products lead no further.
    """
    dtype = start.dtype
    empty = Tridiagonal(
        jnp.zeros(steps, dtype),
        jnp.zeros(steps, dtype),
        jnp.zeros((steps, start.size), dtype),
    )

    def step(number, carry):
        so_far, q = carry
        return _extend(so_far, number, q, product(q), key)

    return repeat(steps, step, (empty, start / jnp.linalg.norm(start)))[0]


# The basis is large: a step changes a row of it, in place.
@partial(jax.jit, donate_argnums=0)
def _extend(so_far, number, q, product, key):
    alpha = so_far.alpha.at[number].set(q @ product)
    basis = so_far.basis.at[number].set(q)
    rest = _orthogonal(basis, product)
    beta = jnp.linalg.norm(rest)
    scale = jnp.maximum(jnp.max(jnp.abs(alpha)), jnp.max(so_far.beta))
    ended = beta <= 10 * jnp.finfo(q.dtype).eps * scale
    key = jax.random.fold_in(key, number)
    another = _orthogonal(basis, jax.random.normal(key, q.shape, q.dtype))
    rest = jnp.where(ended, another, rest)
    following = rest / jnp.maximum(jnp.linalg.norm(rest), jnp.finfo(q.dtype).tiny)
    beta = so_far.beta.at[number].set(jnp.where(ended, 0, beta))
    return Tridiagonal(alpha, beta, basis), following


def _orthogonal(basis, vector):
    """Less its part along the basis, of which rounding leaves some the first time."""
    for _ in range(2):
        vector = vector - (basis @ vector) @ basis
    return vector
