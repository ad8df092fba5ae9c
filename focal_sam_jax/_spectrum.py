r"""The Hessian of any class or group: eigenvalues, trace, density of the spectrum.

Everywhere :math:`H = \nabla^2 \sum_c s_c L_c(\theta)`, with n rows, is known by its
products with vectors alone.
"""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from focal_sam_jax._checks import check_at_least
from focal_sam_jax._class_losses import ClassLosses
from focal_sam_jax._lanczos import lanczos
from focal_sam_jax._loops import each
from focal_sam_jax._perturbation import widen
from focal_sam_jax._sharpness import Estimate, estimate


class Eigenpairs(NamedTuple):
    r"""The largest eigenvalues, from the largest on.

    Attributes:
      values: :math:`\lambda_i`, ``(k,)``.
      vectors: unit vectors :math:`v_i`, a tree like the parameters whose arrays lead
        with an axis of k.
      residuals: :math:`\lVert H v_i - \lambda_i v_i \rVert_2`, ``(k,)``: an eigenvalue
        of :math:`H` is no further from :math:`\lambda_i` than that.
    """

    values: jax.Array
    vectors: chex.ArrayTree
    residuals: jax.Array


class Spectrum(NamedTuple):
    """The distribution of the eigenvalues, as points with weights.

    Attributes:
      nodes: where, ``(samples, steps)``.
      weights: how much, ``(samples, steps)``; of every sample they sum to one.
    """

    nodes: jax.Array
    weights: jax.Array

    def density(self, grid: chex.Array, width: chex.Numeric) -> jax.Array:
        """The mean over the samples, each point a Gaussian of that width.

        Args:
          grid: eigenvalues at which to look, ``(size,)``.
          width: standard deviation of the Gaussians, in units of eigenvalues.

        Returns:
          Float array ``(size,)`` that integrates to one.
        """
        grid = jnp.asarray(grid)
        distance = (grid[:, None] - self.nodes.reshape(1, -1)) / width
        height = jnp.exp(-(distance**2) / 2) / (width * jnp.sqrt(2 * jnp.pi))
        return height @ self.weights.reshape(-1) / self.nodes.shape[0]


def top_eigenpairs(
    losses: ClassLosses,
    params: chex.ArrayTree,
    class_weights: chex.Numeric,
    k: int = 1,
    *,
    key: jax.Array,
    steps: int | None = None,
) -> Eigenpairs:
    r"""The k largest eigenvalues of the Hessian, and their vectors.

    .. math::
      H v_i = \lambda_i v_i, \qquad \lambda_1 \geq \lambda_2 \geq \dots

    by Lanczos with full reorthogonalisation. Largest by value, not by magnitude: at a
    minimum none is far below zero.

    Args:
      losses: of :func:`class_losses`.
      params: :math:`\theta`, n numbers.
      class_weights: :math:`s`, a scalar or shape ``(num_classes,)``.
      k: how many, from 1 to n.
      key: random key of the first vector.
      steps: of Lanczos, from k on; more make the residuals smaller, and n exhaust the
        space. By default ``10 * k + 20``, or n if that is less.

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
    product, flat, unravel = _operator(losses, params, class_weights)
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
        jax.vmap(unravel)(vectors.T @ small.basis),
        jnp.abs(small.beta[-1] * vectors[-1]),
    )


def trace(
    losses: ClassLosses,
    params: chex.ArrayTree,
    class_weights: chex.Numeric,
    *,
    key: jax.Array,
    samples: int = 30,
) -> Estimate:
    r"""The trace of the Hessian, by Hutchinson's estimator.

    .. math::
      \mathrm{tr}\, H = \mathbb{E}\, z^T H z, \qquad z_i = \pm 1

    Args:
      losses: of :func:`class_losses`.
      params: :math:`\theta`.
      class_weights: :math:`s`, a scalar or shape ``(num_classes,)``.
      key: random key.
      samples: draws of z, at least 1.

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
    product, flat, _ = _operator(losses, params, class_weights)

    def draw(key):
        z = jax.random.rademacher(key, flat.shape, flat.dtype)
        return z @ product(z)

    return estimate(each(draw, jax.random.split(key, samples), params))


def trace_hutchpp(
    losses: ClassLosses,
    params: chex.ArrayTree,
    class_weights: chex.Numeric,
    *,
    key: jax.Array,
    samples: int = 30,
) -> Estimate:
    r"""The trace of the Hessian, by Hutch++: exact where it is large, drawn elsewhere.

    .. math::
      \mathrm{tr}\, H = \mathrm{tr}\, Q^T H Q
        + \mathbb{E}\, z^T (I - Q Q^T) H (I - Q Q^T) z

    where :math:`Q` spans :math:`H S` for a random :math:`S`, and so nearly the largest
    eigenvectors: the better, the faster the spectrum falls, as that of a trained
    network does.

    Args:
      losses: of :func:`class_losses`.
      params: :math:`\theta`, n numbers.
      class_weights: :math:`s`, a scalar or shape ``(num_classes,)``.
      key: random key.
      samples: columns of :math:`S`, and draws of z; at least 1.

    Returns:
      The estimate and its standard error, float, (); with at least n samples it is
      exact.

    Cost:
      ``3 * samples`` Hessian-vector products, and memory for ``2 * samples`` vectors.

    Raises:
      ValueError: if ``samples`` is less than one.

    References:
      Meyer et al., `Hutch++: Optimal Stochastic Trace Estimation
      <https://arxiv.org/abs/2010.09649>`_, SOSA 2021, algorithm 1
    """
    check_at_least("samples", samples, 1)
    product, flat, _ = _operator(losses, params, class_weights)
    sketch, draws = jax.random.split(key)
    columns = min(samples, flat.size)

    def drawn(key):
        return jax.random.rademacher(key, flat.shape, flat.dtype)

    image = each(
        lambda key: product(drawn(key)), jax.random.split(sketch, columns), params
    )
    q = jnp.linalg.qr(image.T)[0].T
    large = jnp.sum(each(lambda row: row @ product(row), q, params))

    def rest(key):
        z = drawn(key)
        z = z - (q @ z) @ q
        return z @ product(z)

    left = estimate(each(rest, jax.random.split(draws, samples), params))
    return left._replace(mean=large + left.mean)


def spectral_density(
    losses: ClassLosses,
    params: chex.ArrayTree,
    class_weights: chex.Numeric,
    *,
    key: jax.Array,
    steps: int = 40,
    samples: int = 1,
) -> Spectrum:
    r"""How the eigenvalues of the Hessian are distributed, by stochastic Lanczos.

    .. math::
      \frac{1}{n} \sum_i \delta(\lambda - \lambda_i) \approx
      \mathbb{E} \sum_j \tau_j^2 \, \delta(\lambda - \theta_j)

    with the eigenvalues :math:`\theta_j` of Lanczos' small matrix, and the first
    entries :math:`\tau_j` of its eigenvectors, from a random start.

    Args:
      losses: of :func:`class_losses`.
      params: :math:`\theta`, n numbers.
      class_weights: :math:`s`, a scalar or shape ``(num_classes,)``.
      key: random key.
      steps: of Lanczos, at least 1; n at most.
      samples: random starts, at least 1.

    Returns:
      Points and weights. Times n, the mean of ``sum(nodes * weights)`` over the samples
      is Hutchinson's estimate of the trace.

    Cost:
      ``steps * samples`` Hessian-vector products, and memory for ``steps`` vectors.

    Raises:
      ValueError: if ``steps`` or ``samples`` is less than one.

    References:
      Ghorbani et al., `An Investigation into Neural Net Optimization via Hessian
      Eigenvalue Density <https://arxiv.org/abs/1901.10159>`_, ICML 2019, section 2
    """
    check_at_least("steps", steps, 1)
    check_at_least("samples", samples, 1)
    product, flat, _ = _operator(losses, params, class_weights)

    def quadrature(key):
        first, others = jax.random.split(key)
        start = jax.random.rademacher(first, flat.shape, flat.dtype)
        small = lanczos(product, start, min(steps, flat.size), others)
        nodes, vectors = small.eigh()
        return nodes, vectors[0] ** 2

    return Spectrum(*each(quadrature, jax.random.split(key, samples), params))


def _operator(
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
