r"""Rises of the losses nearby: the largest within a ball, and the average around.

A ball is :math:`\lVert T^{-1} \epsilon \rVert_2 \leq \rho` with :math:`T = 1`, or, if
adaptive, :math:`T = |\theta|` entry by entry. A point in it is :math:`\theta + T u`
with the offset :math:`\lVert u \rVert_2 \leq \rho`.
"""

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from focal_sam_jax._checks import ClassValues, check_at_least, check_scalar
from focal_sam_jax._class_weights import focal_weights
from focal_sam_jax._perturbation import norm, perturb, widen
from focal_sam_jax.sharpness._class_losses import (
    ClassLosses,
    Estimate,
    each,
    estimate,
    one_hot,
    repeat,
    weighted_sum,
)


def sharpness(
    losses: ClassLosses,
    params: chex.ArrayTree,
    class_weights: chex.Numeric,
    rho: chex.Numeric,
    *,
    steps: int = 1,
    restarts: int = 1,
    adaptive: bool = False,
    key: jax.Array | None = None,
) -> jax.Array:
    r"""Computes the largest rise of a weighted loss within a ball.

    .. math::
      \max_{\lVert T^{-1} \epsilon \rVert_2 \leq \rho}
      \sum_c s_c \big[ L_c(\theta + \epsilon) - L_c(\theta) \big]

    With one step it is the rise at :math:`\epsilon = \rho \, T^2 g / \lVert T g
    \rVert_2`, where a linear loss would be highest. This is the perturbation of SAM and
    its relatives. More steps continue by projected gradient ascent, with a step length
    that falls from :math:`\rho` to :math:`\rho / \text{steps}`; restarts begin at
    random points of the sphere. The result is the highest rise seen: a lower bound of
    the maximum, and at least the rise after one step.

    :math:`T = 1`, or, if adaptive, :math:`T = |\theta|` entry by entry. The adaptive
    rise does not change if weights are rescaled and the network stays the same
    function.

    Args:
      losses: result of :func:`class_losses`.
      params: :math:`\theta`.
      class_weights: :math:`s`, a scalar or shape ``(num_classes,)``.
      rho: radius, a scalar >= 0.
      steps: number of ascent steps, at least 1.
      restarts: number of ascents, the first from :math:`\theta`; at least 1.
      adaptive: whether to scale the ball by the parameters (ASAM).
      key: random key for the starts of further ascents.

    Returns:
      The rise, float, ().

    Cost:
      ``steps * restarts`` gradients and ``steps * restarts + 1`` evaluations.

    Raises:
      ValueError: if ``rho`` is negative or not finite, ``steps`` or ``restarts`` less
        than one, or ``key`` missing with more than one restart.

    Example:
      >>> import jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> losses = fsam.sharpness.class_losses(lambda w: jnp.array([w @ w, 0.0]))
      >>> rise = fsam.sharpness.sharpness(losses, jnp.array([3.0, 4.0]), 1.0, rho=0.5)
      >>> bool(jnp.isclose(rise, 5.5**2 - 5.0**2))
      True

    References:
      Foret et al., `Sharpness-Aware Minimization for Efficiently Improving
      Generalization <https://arxiv.org/abs/2010.01412>`_, ICLR 2021, eq. 1 and 2;
      Kwon et al., `ASAM <https://arxiv.org/abs/2102.11600>`_, ICML 2021;
      Andriushchenko et al., `A Modern Look at the Relationship between Sharpness and
      Generalization <https://arxiv.org/abs/2302.07011>`_, ICML 2023, section 3
    """
    check_scalar("rho", rho)
    check_at_least("steps", steps, 1)
    check_at_least("restarts", restarts, 1)
    if restarts > 1 and key is None:
        raise ValueError(
            f"key must be a random key for {restarts} restarts, which begin at random "
            "points: pass key=jax.random.key(0)."
        )
    here = weighted_sum(class_weights, losses.values(params))
    centre = _zeros_like(params)

    def highest(start):
        def climb(step, carry):
            offset, best = carry
            point = _point(params, offset, adaptive)
            gradient = losses.gradient(point, class_weights)
            length = rho * (1 - step / steps)
            offset = _climbed(params, offset, gradient, length, rho, adaptive)
            values = losses.values(_point(params, offset, adaptive))
            there = weighted_sum(class_weights, values)
            return offset, jnp.maximum(best, there - here)

        return repeat(steps, climb, (start, jnp.full_like(here, -jnp.inf)))[1]

    def from_sphere(key):
        return highest(perturb(centre, _gaussian(key, centre, 1.0), rho).params)

    best = highest(centre)
    if key is not None and restarts > 1:
        others = each(from_sphere, jax.random.split(key, restarts - 1), params)
        best = jnp.maximum(best, jnp.max(others))
    return best


def class_sharpness(
    losses: ClassLosses,
    params: chex.ArrayTree,
    rho: chex.Numeric,
    *,
    steps: int = 1,
    restarts: int = 1,
    adaptive: bool = False,
    key: jax.Array | None = None,
) -> jax.Array:
    r"""Computes the largest rise of the loss of each class within its own ball.

    .. math::
      \max_{\lVert T^{-1} \epsilon \rVert_2 \leq \rho}
      L_c(\theta + \epsilon) - L_c(\theta)

    Args:
      losses: result of :func:`class_losses`.
      params: :math:`\theta`.
      rho: radius, a scalar >= 0.
      steps: as in :func:`sharpness`; also ``restarts``, ``adaptive`` and ``key``.

    Returns:
      The rise of every class, float, ``(num_classes,)``; zero for a class without
      examples.

    Cost:
      As :func:`sharpness`, times the number of classes.

    Raises:
      ValueError: as :func:`sharpness`.

    Example:
      >>> import jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> losses = fsam.sharpness.class_losses(lambda w: jnp.stack([w @ w, 9 * w @ w]))
      >>> flat, sharp = fsam.sharpness.class_sharpness(losses, jnp.ones(2), rho=0.1)
      >>> bool(jnp.isclose(sharp, 9 * flat))
      True

    References:
      Zhou et al., Class-Conditional Sharpness-Aware Minimization for Deep Long-Tailed
      Recognition, CVPR 2023, for one ball per class; otherwise as
      :func:`sharpness`
    """
    options = {"steps": steps, "restarts": restarts, "adaptive": adaptive, "key": key}

    def of_class(weights):
        return sharpness(losses, params, weights, rho, **options)

    return each(of_class, one_hot(losses, params), params)


def focal_sharpness(
    losses: ClassLosses,
    params: chex.ArrayTree,
    class_counts: ClassValues,
    rho: chex.Numeric,
    gamma: chex.Numeric,
    *,
    steps: int = 1,
    restarts: int = 1,
    adaptive: bool = False,
    key: jax.Array | None = None,
) -> jax.Array:
    r"""Computes the rise that Focal-SAM penalises, weighted towards rare classes.

    .. math::
      \max_{\lVert T^{-1} \epsilon \rVert_2 \leq \rho}
      \sum_c (1 - \pi_c)^\gamma \big[ L_c(\theta + \epsilon) - L_c(\theta) \big]

    Args:
      losses: result of :func:`class_losses`.
      params: :math:`\theta`.
      class_counts: training examples of each class, shape ``(num_classes,)``.
      rho: radius, a scalar >= 0.
      gamma: focusing exponent, a scalar >= 0.
      steps: as in :func:`sharpness`; also ``restarts``, ``adaptive`` and ``key``.

    Returns:
      The rise, float, ().

    Cost:
      As :func:`sharpness`.

    Raises:
      ValueError: as :func:`sharpness` and :func:`focal_sam_jax.focal_weights`.

    Example:
      >>> import jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> losses = fsam.sharpness.class_losses(lambda w: jnp.stack([9 * w @ w, w @ w]))
      >>> rises = [fsam.sharpness.focal_sharpness(losses, jnp.ones(2), [90, 10], 0.1, g)
      ...          for g in (0.0, 3.0)]
      >>> bool(rises[1] < rises[0])  # the frequent class is the sharp one
      True

    References:
      Li et al., `Focal-SAM: Focal Sharpness-Aware Minimization for Long-Tailed
      Classification <https://arxiv.org/abs/2505.01660>`_, ICML 2025
    """
    weights = focal_weights(class_counts, gamma)
    options = {"steps": steps, "restarts": restarts, "adaptive": adaptive, "key": key}
    return sharpness(losses, params, weights, rho, **options)


def average_sharpness(
    losses: ClassLosses,
    params: chex.ArrayTree,
    rho: chex.Numeric,
    key: jax.Array,
    *,
    samples: int = 10,
    adaptive: bool = False,
) -> Estimate:
    r"""Estimates the mean rise of the loss of each class at random points nearby.

    .. math::
      \mathbb{E} \, L_c(\theta + T u) - L_c(\theta), \qquad
      u \sim \mathcal{N}\big(0, \tfrac{\rho^2}{n} I\big)

    with n parameters, so that :math:`\mathbb{E} \lVert u \rVert^2 = \rho^2` and radii
    are comparable with those of :func:`sharpness`. Every draw is used with both signs,
    which cancels the first-order term. With :math:`T = 1` the mean is, to second order,
    :math:`\rho^2 / 2n` times the trace of the Hessian.

    Args:
      losses: result of :func:`class_losses`.
      params: :math:`\theta`.
      rho: radius, a scalar >= 0.
      key: random key.
      samples: number of draws, at least 1.
      adaptive: whether to scale the ball by the parameters.

    Returns:
      The mean and its standard error, float, ``(num_classes,)``.

    Cost:
      ``2 * samples + 1`` evaluations.

    Raises:
      ValueError: if ``rho`` is negative or not finite, or ``samples`` less than one.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> losses = fsam.sharpness.class_losses(lambda w: jnp.stack([w @ w, w.sum()]))
      >>> rise, error = fsam.sharpness.average_sharpness(
      ...     losses, jnp.ones(50), rho=0.3, key=jax.random.key(0))
      >>> bool(abs(rise[0] - 0.3**2) < 4 * error[0]), bool(abs(rise[1]) < 1e-4)
      (True, True)

    References:
      Andriushchenko et al., `A Modern Look at the Relationship between Sharpness and
      Generalization <https://arxiv.org/abs/2302.07011>`_, ICML 2023, section 3, whose
      radius is the standard deviation of one entry, :math:`\rho / \sqrt n`
    """
    check_scalar("rho", rho)
    check_at_least("samples", samples, 1)
    here = losses.values(params)

    def rise(key):
        offset = _gaussian(key, _zeros_like(params), rho)
        opposite = jax.tree.map(jnp.negative, offset)
        ahead, behind = (
            losses.values(_point(params, u, adaptive)) for u in (offset, opposite)
        )
        return (ahead + behind) / 2 - here

    return estimate(each(rise, jax.random.split(key, samples), params))


# --- generalisation bounds -----------------------------------------------------------


class BoundTerms(NamedTuple):
    r"""Terms of a generalisation bound; they are not a bound and certify nothing.

    Attributes:
      empirical_loss: :math:`\sum_c L_c(\theta)`, ().
      class_losses: :math:`L_c(\theta)`, ``(num_classes,)``.
      focal_sharpness: the rise that Focal-SAM penalises, ().
      parameter_norm: :math:`\lVert \theta \rVert_2`, ().
      num_parameters: number of parameters n, ().
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
    r"""Computes the terms of the generalisation bound of Focal-SAM.

    The bound has the form: loss on the population ≤ loss on the training set + focal
    sharpness + a term that grows with :math:`\lVert \theta \rVert_2^2 / \rho^2` and the
    number of parameters, and falls with the number of examples. For networks of common
    size that last term is far above any loss. The terms are for comparing networks;
    their sum is not computed.

    Args:
      losses: result of :func:`class_losses`.
      params: :math:`\theta`.
      class_counts: training examples of each class, shape ``(num_classes,)``.
      rho: radius of the focal sharpness, a scalar >= 0.
      gamma: focusing exponent, a scalar >= 0.

    Returns:
      The terms.

    Cost:
      One gradient and three evaluations.

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
    size = optax.tree.size(params)
    return BoundTerms(
        empirical_loss=jnp.sum(of_class),
        class_losses=of_class,
        focal_sharpness=focal_sharpness(losses, params, class_counts, rho, gamma),
        parameter_norm=norm(params),
        num_parameters=jnp.asarray(size),
        class_counts=jnp.asarray(class_counts),
    )


# --- points θ + T u near the parameters, by their offset u ----------------------------


# Each is compiled into one call, for loops that run on the host.
@partial(jax.jit, static_argnums=2)
def _point(params, offset, adaptive):
    return jax.tree.map(
        lambda theta, step: (widen(theta) + step).astype(theta.dtype),
        params,
        _scaled(params, offset, adaptive),
    )


@partial(jax.jit, static_argnums=5)
def _climbed(params, offset, gradient, length, rho, adaptive):
    """Moves an offset along the gradient and projects it back into the ball."""
    # By the chain rule, the gradient with respect to the offset is T times the gradient
    # with respect to the parameters.
    uphill = _scaled(params, gradient, adaptive)
    offset = perturb(offset, uphill, length).params
    length = norm(offset)
    factor = jnp.where(length > rho, rho / jnp.where(length > 0, length, 1), 1)
    return jax.tree.map(lambda leaf: factor * leaf, offset)


def _zeros_like(params):
    return jax.tree.map(lambda leaf: jnp.zeros_like(widen(leaf)), params)


@jax.jit
def _gaussian(key, like, rho):
    """Draws an offset whose squared length is ``rho**2`` on average."""
    size = optax.tree.size(like)
    normal = optax.tree.random_like(key, like, sampler=jax.random.normal)
    return jax.tree.map(lambda leaf: rho / size**0.5 * leaf, normal)


def _scaled(params, tree, adaptive):
    if not adaptive:
        return tree
    return jax.tree.map(
        lambda theta, leaf: jnp.abs(widen(theta)) * widen(leaf), params, tree
    )
