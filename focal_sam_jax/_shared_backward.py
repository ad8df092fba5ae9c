r"""Two gradients from one backward pass, where no layer mixes examples.

Let :math:`\ell_j` be the loss of example j and :math:`h_j` what a layer
:math:`h_j = f(\theta, x_j)` made of that example alone. With
:math:`\delta_j = \partial L / \partial h_j`

.. math::
  \frac{\partial}{\partial h_j} \sum_c s_c L_c = s_{y_j} \delta_j, \qquad
  \nabla_\theta L = \sum_j J_j^T \delta_j, \qquad
  \nabla_\theta \sum_c s_c L_c = \sum_j J_j^T \big( s_{y_j} \delta_j \big)

so that one pass over the activations, which computes :math:`\delta`, serves both, and
only the contraction that makes a gradient of a parameter is done twice. BatchNorm in
training mixes examples: there the first equation does not hold.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np

X = TypeVar("X")


class Twin:
    r"""A parameter in two slots of equal value, for the gradients by each.

    To JAX it is no array and no tree of arrays: :func:`apply_per_example` alone knows
    what to do with it, and all else has to refuse it rather than use one slot or both.

    Attributes:
      plain: the slot whose gradient is :math:`\nabla L`.
      weighted: the slot whose gradient is :math:`\nabla \sum_c s_c L_c`.
      weights: :math:`s_{y_j}`, shape ``(batch,)``.
    """

    def __init__(self, plain: jax.Array, weighted: jax.Array, weights: jax.Array):
        self.plain, self.weighted, self.weights = plain, weighted, weights

    def __getattr__(self, name: str) -> NoReturn:
        # Also JAX's question whether this can be turned into an array.
        self._refuse()

    def _refuse(self, *_: Any) -> NoReturn:
        # Not a TypeError, which jit would replace by one of its own.
        raise ValueError(
            "the loss function, called with per_example_labels, uses a parameter "
            "outside of focal_sam_jax.apply_per_example (or hands it to a jitted, "
            "scanned or rematerialised function): apply all parameters through it, or "
            "leave per_example_labels out."
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __matmul__ = __rmatmul__ = _refuse
    __pow__ = __neg__ = __abs__ = __getitem__ = __iter__ = __len__ = _refuse


def apply_per_example(f: Callable[[Any, X], Any], theta: chex.ArrayTree, x: X) -> Any:
    r"""``f(theta, x)``, for an ``f`` that treats every example by itself.

    .. math:: h_j = f(\theta, x_j)

    This is how a network that mixes no examples says so: where it applies its
    parameters through this function, layer by layer, ``per_example_labels`` of
    :func:`focal_sam_jax.focal_sam`, :func:`focal_sam_jax.imbsam` and
    :func:`focal_sam_jax.sharpness_aware_value_and_grad` makes one backward pass over
    the activations serve both gradients at θ. Everywhere else it is the plain call.

    Layers without parameters, attention among them, need no mention. The smaller the
    functions, the more is shared: what stands inside of one ``f`` is differentiated
    twice. A scan over layers is one ``f``, right but without gain.

    Args:
      f: from parameters and inputs to outputs, trees of arrays. What it takes from
        around it must not depend on parameters that are being differentiated.
      theta: parameters, a tree of arrays; some of them may be frozen.
      x: inputs, a tree of arrays whose first axis is that of the examples.

    Returns:
      ``f(theta, x)``, whose arrays have the examples along the first axis too.

    Raises:
      ValueError: in a shared pass, if an input or output has another first axis than
        the labels, or a parameter is used anywhere else.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> def per_class_loss(params, x, y):
      ...     h = fsam.apply_per_example(lambda w, x: x @ w, params["in"], x)
      ...     h = fsam.apply_per_example(lambda w, h: h @ w, params["out"], jnp.tanh(h))
      ...     losses = fsam.losses.cross_entropy(h, y)
      ...     return fsam.per_class_losses(losses, y, num_classes=2)
      >>> params = {"in": jnp.ones((3, 4)), "out": jnp.eye(4, 2)}
      >>> x, y = jnp.ones((5, 3)), jnp.array([0, 0, 0, 0, 1])
      >>> fn = fsam.sharpness_aware_value_and_grad(
      ...     per_class_loss, fsam.focal_weights([4, 1], gamma=1.0), rho=0.1,
      ...     per_example_labels=lambda x, y: y)
      >>> loss, grads = jax.jit(fn)(params, x, y)
      >>> grads["in"].shape == params["in"].shape
      True
    """
    leaves, tree = jax.tree.flatten(theta)
    is_twin = [isinstance(leaf, Twin) for leaf in leaves]
    if not any(is_twin):
        # A copy costs nothing once compiled, and makes what f sends back to x one sum,
        # as it is below: the compiler merges but what was added in the same order.
        return f(theta, jax.tree.map(jnp.copy, x))

    def applied(trained, frozen, x):
        trained, frozen = iter(trained), iter(frozen)
        leaves = [next(trained if twin else frozen) for twin in is_twin]
        return f(tree.unflatten(leaves), x)

    twins = [leaf for leaf in leaves if isinstance(leaf, Twin)]
    frozen = [leaf for leaf in leaves if not isinstance(leaf, Twin)]
    plain = [twin.plain for twin in twins]
    weighted = [twin.weighted for twin in twins]
    weights = twins[0].weights
    _check_examples("inputs", x, weights)
    out = _apply(applied, plain, weighted, frozen, x, weights)
    _check_examples("outputs", out, weights)
    return out


def pair(
    plain: chex.ArrayTree, weighted: chex.ArrayTree, weights: jax.Array
) -> chex.ArrayTree:
    """The tree of twins with these trees in their slots."""
    return jax.tree.map(partial(Twin, weights=weights), plain, weighted)


def example_weights(class_weights: chex.Numeric, labels: chex.Array) -> jax.Array:
    r""":math:`s_{y_j}` from :math:`s` and :math:`y`, checked; shape ``(batch,)``."""
    class_weights, labels = jnp.asarray(class_weights), jnp.asarray(labels)
    if labels.ndim != 1 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            "per_example_labels must be the class ids of the batch, ints of shape "
            f"(batch,), got {labels.dtype} of shape {labels.shape}."
        )
    # Split over devices as the labels are, which JAX asks for on explicit meshes.
    return class_weights.at[labels].get(out_sharding=jax.typeof(labels).sharding)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _apply(f, plain, weighted, frozen, x, weights):
    del weighted, weights
    return f(plain, frozen, x)


def _forward(f, plain, weighted, frozen, x, weights):
    del weighted
    out, vjp = jax.vjp(f, plain, frozen, x)
    return out, (vjp, weights)


def _backward(f, residuals, cotangent):
    del f
    vjp, weights = residuals
    to_plain, to_frozen, to_x = vjp(cotangent)
    # What is computed here for frozen and x, nobody uses: the compiler drops it.
    to_weighted, _, _ = vjp(jax.tree.map(partial(_weigh, weights), cotangent))
    return to_plain, to_weighted, to_frozen, to_x, jnp.zeros_like(weights)


_apply.defvjp(_forward, _backward)


def _weigh(weights, cotangent):
    """Every example's cotangent times its weight, the product rounded but once."""
    if cotangent.dtype == jax.dtypes.float0:
        return cotangent
    weights = weights.reshape(-1, *[1] * (cotangent.ndim - 1))
    return (weights * cotangent).astype(cotangent.dtype)


def _check_examples(what, tree, weights):
    for leaf in jax.tree.leaves(tree):
        if np.shape(leaf)[:1] != weights.shape:
            raise ValueError(
                f"the {what} of a function given to focal_sam_jax.apply_per_example "
                f"must have the examples along the first axis, {weights.shape[0]} as "
                f"per_example_labels has, got shape {np.shape(leaf)}."
            )
