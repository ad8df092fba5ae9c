"""The quantities that generalisation bounds for sharpness-aware methods are made of."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from focal_sam_jax._checks import ClassValues
from focal_sam_jax._class_losses import ClassLosses
from focal_sam_jax._perturbation import widen
from focal_sam_jax._sharpness import focal_sharpness


class BoundTerms(NamedTuple):
    r"""Terms, not a bound: none of them certifies anything.

    Attributes:
      empirical_loss: :math:`\sum_c L_c(\theta)`, ().
      class_losses: :math:`L_c(\theta)`, ``(num_classes,)``.
      focal_sharpness: the rise that Focal-SAM penalises, ().
      parameter_norm: :math:`\lVert \theta \rVert_2`, ().
      num_parameters: n, ().
      class_counts: training examples of each class, ``(num_classes,)``.
    """

    empirical_loss: jax.Array
    class_losses: jax.Array
    focal_sharpness: jax.Array
    parameter_norm: jax.Array
    num_parameters: jax.Array
    class_counts: jax.Array


def bound_terms(
    losses: ClassLosses,
    params: chex.ArrayTree,
    class_counts: ClassValues,
    rho: chex.Numeric,
    gamma: chex.Numeric,
) -> BoundTerms:
    r"""What the generalisation bound of Focal-SAM is made of, as one report.

    The bound is of the form: loss on the population ≤ loss on the training set + focal
    sharpness + a term that grows with :math:`\lVert \theta \rVert_2^2 / \rho^2` and the
    number of parameters, and falls with the number of examples. For networks of common
    size that last term is far above any loss. The terms are for comparing networks, and
    no sum of them is formed.

    Args:
      losses: of :func:`class_losses`.
      params: :math:`\theta`.
      class_counts: training examples of each class, shape ``(num_classes,)``.
      rho: radius of the focal sharpness, a scalar >= 0.
      gamma: its focusing exponent, a scalar >= 0.

    Returns:
      The terms.

    Cost:
      A gradient and three evaluations.

    Raises:
      ValueError: as :func:`focal_sharpness`.

    Example:
      >>> import jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> losses = fsam.sharpness.class_losses(lambda w: jnp.stack([w @ w, w.sum()]))
      >>> terms = fsam.sharpness.bound_terms(
      ...     losses, jnp.array([3.0, 4.0]), [90, 10], rho=0.05, gamma=1.0)
      >>> float(terms.parameter_norm), float(terms.empirical_loss)
      (5.0, 32.0)

    References:
      Li et al., `Focal-SAM: Focal Sharpness-Aware Minimization for Long-Tailed
      Classification <https://arxiv.org/abs/2505.01660>`_, ICML 2025, the theorem on
      generalisation
    """
    of_class = losses.values(params)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    return BoundTerms(
        empirical_loss=jnp.sum(of_class),
        class_losses=of_class,
        focal_sharpness=focal_sharpness(losses, params, class_counts, rho, gamma),
        parameter_norm=optax.tree.norm(jax.tree.map(widen, params)),
        num_parameters=jnp.asarray(size),
        class_counts=jnp.asarray(class_counts),
    )
