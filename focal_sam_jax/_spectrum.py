r"""The spectrum of the Hessian of any class or group: its top, and its density.

Everywhere :math:`H = \nabla^2 \sum_c s_c L_c(\theta)`, with n rows, is known by its
products with vectors alone.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from focal_sam_jax._checks import check_at_least
from focal_sam_jax._class_losses import ClassLosses
from focal_sam_jax._hessian import hessian
from focal_sam_jax._lanczos import lanczos
from focal_sam_jax._loops import each


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
        jax.vmap(unravel)(vectors.T @ small.basis),
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
    product, flat, _ = hessian(losses, params, class_weights)

    def quadrature(key):
        first, others = jax.random.split(key)
        start = jax.random.rademacher(first, flat.shape, flat.dtype)
        small = lanczos(product, start, min(steps, flat.size), others)
        nodes, vectors = small.eigh()
        return nodes, vectors[0] ** 2

    return Spectrum(*each(quadrature, jax.random.split(key, samples), params))
