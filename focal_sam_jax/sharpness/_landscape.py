"""Slices of the loss landscape: the loss of every class along one or two directions."""

import chex
import jax
import jax.numpy as jnp

from focal_sam_jax._perturbation import widen
from focal_sam_jax.sharpness._class_losses import ClassLosses, each


def filter_normalised(params: chex.ArrayTree, key: jax.Array) -> chex.ArrayTree:
    r"""Draws a random direction whose filters are as long as the network's own.

    .. math::
      d_f \leftarrow \frac{d_f}{\lVert d_f \rVert} \, \lVert \theta_f \rVert

    This makes steps comparable between networks whose weights differ in scale. In an
    array with two axes or more, each index of the last axis is one filter. In JAX
    libraries that axis is the output of a layer. Arrays with fewer axes (biases,
    weights of normalisation layers) get a zero direction.

    Args:
      params: :math:`\theta`.
      key: random key.

    Returns:
      A tree like ``params``, in float32 or wider.

    Cost:
      No evaluation of the loss.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> kernel = jnp.stack([jnp.full(9, 1.0), jnp.full(9, 5.0)], axis=-1)
      >>> params = {"kernel": kernel, "bias": jnp.ones(2)}
      >>> direction = fsam.sharpness.filter_normalised(params, jax.random.key(0))
      >>> lengths = jnp.linalg.norm(direction["kernel"], axis=0)
      >>> bool(jnp.allclose(lengths, jnp.array([3.0, 15.0])))
      True

    References:
      Li et al., `Visualizing the Loss Landscape of Neural Nets
      <https://arxiv.org/abs/1712.09913>`_, NeurIPS 2018, section 4
    """
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten(map(_like_filters, leaves, keys))


def _like_filters(theta, key):
    theta = widen(theta)
    if theta.ndim < 2:
        return jnp.zeros_like(theta)
    axes = tuple(range(theta.ndim - 1))
    direction = jax.random.normal(key, theta.shape, theta.dtype)

    def length(array):
        return jnp.sqrt(jnp.sum(array**2, axes, keepdims=True))

    return direction * length(theta) / length(direction)


def slice_1d(
    losses: ClassLosses,
    params: chex.ArrayTree,
    direction: chex.ArrayTree,
    steps: chex.Array,
) -> jax.Array:
    r"""Computes the losses along a line.

    .. math::
      L_c(\theta + a \, d)

    Args:
      losses: result of :func:`class_losses`.
      params: :math:`\theta`.
      direction: :math:`d`, a tree like ``params``, from :func:`filter_normalised` or an
        eigenvector of the Hessian.
      steps: the values of :math:`a`, ``(size,)``.

    Returns:
      Float array ``(size, num_classes)``.

    Cost:
      One evaluation per step.

    Raises:
      ValueError: if ``steps`` is empty or not 1-D; by JAX, if ``direction`` is not like
        ``params``.

    Example:
      >>> import jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> losses = fsam.sharpness.class_losses(lambda w: jnp.stack([w @ w, w[0]]))
      >>> w, ahead = jnp.zeros(2), jnp.array([1.0, 0.0])
      >>> fsam.sharpness.slice_1d(losses, w, ahead, jnp.array([0.0, 2.0])).tolist()
      [[0.0, 0.0], [4.0, 2.0]]

    References:
      Goodfellow et al., `Qualitatively Characterizing Neural Network Optimization
      Problems <https://arxiv.org/abs/1412.6544>`_, ICLR 2015
    """
    return each(
        lambda a: losses.values(_along(params, direction, a)), _some(steps), params
    )


def slice_2d(
    losses: ClassLosses,
    params: chex.ArrayTree,
    directions: tuple[chex.ArrayTree, chex.ArrayTree],
    steps: tuple[chex.Array, chex.Array],
) -> jax.Array:
    r"""Computes the losses over a plane.

    .. math::
      L_c(\theta + a_1 d_1 + a_2 d_2)

    Args:
      losses: result of :func:`class_losses`.
      params: :math:`\theta`.
      directions: :math:`d_1` and :math:`d_2`, trees like ``params``.
      steps: the values of :math:`a_1`, ``(size_1,)``, and :math:`a_2`, ``(size_2,)``.

    Returns:
      Float array ``(size_1, size_2, num_classes)``.

    Cost:
      One evaluation per pair of steps.

    Raises:
      ValueError: as :func:`slice_1d`.

    Example:
      >>> import jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> losses = fsam.sharpness.class_losses(lambda w: jnp.stack([w[0], w[1]]))
      >>> ahead, aside = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
      >>> steps = jnp.array([0.0, 2.0]), jnp.array([1.0])
      >>> fsam.sharpness.slice_2d(losses, jnp.zeros(2), (ahead, aside), steps).tolist()
      [[[0.0, 1.0]], [[2.0, 1.0]]]

    References:
      Li et al., `Visualizing the Loss Landscape of Neural Nets
      <https://arxiv.org/abs/1712.09913>`_, NeurIPS 2018
    """
    first, second = directions
    return each(
        lambda a: slice_1d(losses, _along(params, first, a), second, steps[1]),
        _some(steps[0]),
        params,
    )


def _some(steps):
    steps = jnp.asarray(steps)
    if steps.ndim != 1 or steps.size == 0:
        raise ValueError(f"steps must have shape (size,), got {steps.shape}.")
    return steps


@jax.jit
def _along(params, direction, step):
    return jax.tree.map(
        lambda theta, d: (widen(theta) + step * d).astype(theta.dtype),
        params,
        direction,
    )
