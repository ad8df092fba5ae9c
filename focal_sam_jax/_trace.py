r"""The trace of the Hessian :math:`H = \nabla^2 \sum_c s_c L_c(\theta)`, n rows."""

import chex
import jax
import jax.numpy as jnp

from focal_sam_jax._checks import check_at_least
from focal_sam_jax._class_losses import ClassLosses
from focal_sam_jax._estimates import Estimate, estimate
from focal_sam_jax._hessian import hessian
from focal_sam_jax._loops import each


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
    product, flat, _ = hessian(losses, params, class_weights)

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
    product, flat, _ = hessian(losses, params, class_weights)
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
