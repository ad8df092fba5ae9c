r"""The spectrum of the Hessian of any class or group: its top, its trace, its density.

:math:`H = \nabla^2 \sum_c s_c L_c(\theta)`, with n rows, is used only through its
products with vectors.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from focal_sam_jax._checks import check_at_least
from focal_sam_jax._perturbation import widen
from focal_sam_jax.sharpness._class_losses import (
    ClassLosses,
    Estimate,
    each,
    estimate,
    repeat,
)

# GPUs and TPUs round the factors of float32 products unless they are told not to.
dot = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


class Eigenpairs(NamedTuple):
    r"""The largest eigenvalues, in descending order.

    Attributes:
      values: :math:`\lambda_i`, ``(k,)``.
      vectors: unit vectors :math:`v_i`, a tree like the parameters whose arrays have a
        leading axis of size k.
      residuals: :math:`\lVert H v_i - \lambda_i v_i \rVert_2`, ``(k,)``; some
        eigenvalue of :math:`H` is at most this far from :math:`\lambda_i`.
    """

    values: jax.Array
    vectors: chex.ArrayTree
    residuals: jax.Array


class Spectrum(NamedTuple):
    """The distribution of the eigenvalues, as points with weights.

    Attributes:
      nodes: the points, ``(samples, steps)``.
      weights: their weights, ``(samples, steps)``; those of each sample sum to one.
    """

    nodes: jax.Array
    weights: jax.Array

    def density(self, grid: chex.Array, width: chex.Numeric) -> jax.Array:
        """Computes the mean density of the samples, with a Gaussian at each point.

        Args:
          grid: eigenvalues at which to evaluate, ``(size,)``.
          width: standard deviation of the Gaussians, in units of eigenvalues.

        Returns:
          Float array ``(size,)`` that integrates to one.
        """
        grid = jnp.asarray(grid)
        distance = (grid[:, None] - self.nodes.reshape(1, -1)) / width
        height = jnp.exp(-(distance**2) / 2) / (width * jnp.sqrt(2 * jnp.pi))
        return dot(height, self.weights.reshape(-1)) / self.nodes.shape[0]


def top_eigenpairs(
    losses: ClassLosses,
    params: chex.ArrayTree,
    class_weights: chex.Numeric,
    k: int = 1,
    *,
    key: jax.Array,
    steps: int | None = None,
) -> Eigenpairs:
    r"""Computes the k largest eigenvalues of the Hessian, and their vectors.

    .. math::
      H v_i = \lambda_i v_i, \qquad \lambda_1 \geq \lambda_2 \geq \dots

    The method is Lanczos with full reorthogonalisation. Largest means by value, not by
    magnitude: at a minimum no eigenvalue is far below zero.

    Args:
      losses: result of :func:`class_losses`.
      params: :math:`\theta`, n numbers.
      class_weights: :math:`s`, a scalar or shape ``(num_classes,)``.
      k: number of eigenvalues, from 1 to n.
      key: random key of the first vector.
      steps: number of Lanczos steps, at least k; more make the residuals smaller, and n
        steps span the space. By default ``10 * k + 20``, or n if that is less.

    Returns:
      Eigenvalues, vectors and residuals.

    Cost:
      ``steps`` Hessian-vector products, and memory for ``steps`` vectors.

    Raises:
      ValueError: if ``k`` is less than one or more than n, or ``steps`` less than k.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> curvature = jnp.array([1.0, 5.0, 2.0])
      >>> losses = fsam.sharpness.class_losses(
      ...     lambda w: jnp.stack([curvature @ w**2 / 2, 0.0]))
      >>> top = fsam.sharpness.top_eigenpairs(
      ...     losses, jnp.ones(3), 1.0, k=2, key=jax.random.key(0))
      >>> bool(jnp.allclose(top.values, jnp.array([5.0, 2.0]), atol=1e-4))
      True

    References:
      Ghorbani et al., `An Investigation into Neural Net Optimization via Hessian
      Eigenvalue Density <https://arxiv.org/abs/1901.10159>`_, ICML 2019;
      Golub and Van Loan, Matrix Computations, chapter 10
    """
    product, flat, unravel = hessian(losses, params, class_weights)
    check_at_least("k", k, 1)
    if k > flat.size:
        raise ValueError(
            f"k must be at most the number of parameters, {flat.size}, got {k}."
        )
    steps = min(10 * k + 20, flat.size) if steps is None else steps
    check_at_least("steps", steps, k)
    start, others = jax.random.split(key)
    start = jax.random.normal(start, flat.shape, flat.dtype)
    small = lanczos(product, start, min(steps, flat.size), others)
    values, vectors = small.eigh()
    values, vectors = values[::-1][:k], vectors[:, ::-1][:, :k]
    return Eigenpairs(
        values,
        jax.vmap(unravel)(dot(vectors.T, small.basis)),
        jnp.abs(small.beta[-1] * vectors[-1]),
    )


def spectral_density(
    losses: ClassLosses,
    params: chex.ArrayTree,
    class_weights: chex.Numeric,
    *,
    key: jax.Array,
    steps: int = 40,
    samples: int = 1,
) -> Spectrum:
    r"""Estimates the distribution of the Hessian's eigenvalues by stochastic Lanczos.

    .. math::
      \frac{1}{n} \sum_i \delta(\lambda - \lambda_i) \approx
      \mathbb{E} \sum_j \tau_j^2 \, \delta(\lambda - \theta_j)

    with the eigenvalues :math:`\theta_j` of Lanczos' small matrix, and the first
    entries :math:`\tau_j` of its eigenvectors, from a random start.

    Args:
      losses: result of :func:`class_losses`.
      params: :math:`\theta`, n numbers.
      class_weights: :math:`s`, a scalar or shape ``(num_classes,)``.
      key: random key.
      steps: number of Lanczos steps, at least 1; at most n are made.
      samples: number of random starts, at least 1.

    Returns:
      Points and weights. Times n, the mean of ``sum(nodes * weights)`` over the samples
      is Hutchinson's estimate of the trace.

    Cost:
      ``steps * samples`` Hessian-vector products, and memory for ``steps`` vectors.

    Raises:
      ValueError: if ``steps`` or ``samples`` is less than one.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> curvature = jnp.array([1.0, 5.0, 2.0])
      >>> losses = fsam.sharpness.class_losses(
      ...     lambda w: jnp.stack([curvature @ w**2 / 2, 0.0]))
      >>> found = fsam.sharpness.spectral_density(
      ...     losses, jnp.ones(3), 1.0, key=jax.random.key(0))
      >>> mean = jnp.sum(found.nodes * found.weights)
      >>> bool(jnp.isclose(3 * mean, 8.0))  # the trace
      True

    References:
      Ghorbani et al., `An Investigation into Neural Net Optimization via Hessian
      Eigenvalue Density <https://arxiv.org/abs/1901.10159>`_, ICML 2019, section 2
    """
    check_at_least("steps", steps, 1)
    check_at_least("samples", samples, 1)
    product, flat, _ = hessian(losses, params, class_weights)

    def quadrature(key):
        first, others = jax.random.split(key)
        start = jax.random.rademacher(first, flat.shape, flat.dtype)
        small = lanczos(product, start, min(steps, flat.size), others)
        nodes, vectors = small.eigh()
        return nodes, vectors[0] ** 2

    return Spectrum(*each(quadrature, jax.random.split(key, samples), params))


def trace(
    losses: ClassLosses,
    params: chex.ArrayTree,
    class_weights: chex.Numeric,
    *,
    key: jax.Array,
    samples: int = 30,
) -> Estimate:
    r"""Estimates the trace of the Hessian by Hutchinson's method.

    .. math::
      \mathrm{tr}\, H = \mathbb{E}\, z^T H z, \qquad z_i = \pm 1

    Args:
      losses: result of :func:`class_losses`.
      params: :math:`\theta`.
      class_weights: :math:`s`, a scalar or shape ``(num_classes,)``.
      key: random key.
      samples: number of draws of z, at least 1.

    Returns:
      The estimate and its standard error, float, ().

    Cost:
      ``samples`` Hessian-vector products.

    Raises:
      ValueError: if ``samples`` is less than one.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> losses = fsam.sharpness.class_losses(lambda w: jnp.stack([w @ w, 0.0]))
      >>> mean, error = fsam.sharpness.trace(
      ...     losses, jnp.ones(5), 1.0, key=jax.random.key(0), samples=2)
      >>> bool(abs(mean - 10) < 1e-4)  # exact where the Hessian is diagonal
      True

    References:
      Hutchinson, A Stochastic Estimator of the Trace of the Influence Matrix for
      Laplacian Smoothing Splines, Communications in Statistics, 1990
    """
    check_at_least("samples", samples, 1)
    product, flat, _ = hessian(losses, params, class_weights)

    def draw(key):
        z = jax.random.rademacher(key, flat.shape, flat.dtype)
        return dot(z, product(z))

    return estimate(each(draw, jax.random.split(key, samples), params))


# --- products -------------------------------------------------------------------------


def hessian(
    losses: ClassLosses, params: chex.ArrayTree, class_weights: chex.Numeric
) -> tuple[
    Callable[[jax.Array], jax.Array],
    jax.Array,
    Callable[[jax.Array], chex.ArrayTree],
]:
    """Returns the Hessian-vector product, the flat parameters, and the unflattening.

    Vectors and unflattened trees are in float32 or wider.
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


# --- Lanczos --------------------------------------------------------------------------


class Tridiagonal(NamedTuple):
    r"""A small tridiagonal matrix that approximates a large symmetric one.

    After m steps of Lanczos from a unit vector :math:`q_1`

    .. math::
      H Q = Q T + \beta_m \, q_{m+1} e_m^T, \qquad Q^T Q = I

    with the diagonal :math:`\alpha` and off-diagonal :math:`\beta` of :math:`T`. After
    few steps its outermost eigenvalues are close to those of :math:`H`. With the
    squared first entries of its eigenvectors as weights, they are a Gauss quadrature
    for the spectral measure of :math:`H` at :math:`q_1`.

    Attributes:
      alpha: :math:`\alpha`, ``(m,)``.
      beta: :math:`\beta`, ``(m,)``; the last entry is the factor of :math:`q_{m+1}`.
      basis: :math:`Q^T`, ``(m, n)``.
    """

    alpha: jax.Array
    beta: jax.Array
    basis: jax.Array

    def eigh(self) -> tuple[jax.Array, jax.Array]:
        """Computes eigenvalues, ascending, ``(m,)``, and eigenvectors, in columns."""
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
    """Runs Lanczos from ``start``, with full reorthogonalisation.

    It is implemented here since products may come from batches on disk, one call after
    the other, and the library depends only on JAX, Optax and chex.

    Args:
      product: function from a vector to the matrix times it, float, ``(n,)``.
      start: non-zero vector, float, ``(n,)``.
      steps: m, at most n; number of products and of stored vectors.
      key: random key for new vectors, when products stay in the span of the basis.
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


# The basis is large, so each step changes one row in place.
@partial(jax.jit, donate_argnums=0)
def _extend(so_far, number, q, product, key):
    alpha = so_far.alpha.at[number].set(dot(q, product))
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
    """Subtracts the part along the basis, twice because of rounding errors."""
    for _ in range(2):
        vector = vector - dot(dot(basis, vector), basis)
    return vector
