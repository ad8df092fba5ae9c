r"""A forward pass that stays open: the losses at a point, and all gradients there.

Every method differentiates at θ once or twice, :math:`\nabla L` and
:math:`\nabla \sum_c s_c L_c`, and the activations of one forward pass serve both.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from focal_sam_jax._devices import AxisName, check_axis_named, per_device, share
from focal_sam_jax._loss_functions import ArrayFn
from focal_sam_jax._perturbation import widen
from focal_sam_jax._shared_backward import example_weights, pair


class Forward(NamedTuple):
    r"""The loss at a point, and how to differentiate it there.

    Attributes:
      params: the point, typed per device.
      losses: :math:`L_c`, shape ``(num_classes,)``.
      aux: what the loss function returned besides.
      pullback: from weights :math:`w`, a scalar or shape ``(num_classes,)``, to this
        device's :math:`\nabla \sum_c w_c L_c`, a tree like ``params``.
    """

    params: chex.ArrayTree
    losses: jax.Array
    aux: Any
    pullback: Callable[[chex.Numeric], chex.ArrayTree]


def forward(loss_fn: ArrayFn, params: chex.ArrayTree, axis_name: AxisName) -> Forward:
    """Runs the forward pass once, for as many pullbacks as are wanted."""
    theta = per_device(params, axis_name)
    losses, vjp, aux = jax.vjp(loss_fn, theta, has_aux=True)
    check_axis_named(params, losses, axis_name)
    devices = share(losses, axis_name)

    def pullback(weights):
        cotangent = devices * weights * jnp.ones_like(losses)
        (gradient,) = vjp(cotangent.astype(losses.dtype))
        return gradient

    return Forward(theta, losses, aux, pullback)


def forward_shared(
    loss_fn: ArrayFn,
    params: chex.ArrayTree,
    class_weights: chex.Numeric,
    labels: chex.Array,
    axis_name: AxisName,
) -> tuple[Forward, tuple[chex.ArrayTree, chex.ArrayTree]]:
    r"""The forward pass, :math:`\nabla L` and :math:`g_s`, by one backward pass.

    Args:
      loss_fn: parameters to ``(losses, aux)``; it applies them per example.
      params: θ.
      class_weights: :math:`s`, shape ``(num_classes,)``.
      labels: of the examples, int, shape ``(batch,)``.
      axis_name: the axis, or axes, over which the batch is split.
    """
    weights = example_weights(class_weights, labels)

    def loss_of_slots(slots):
        plain, weighted = slots
        return loss_fn(pair(plain, weighted, weights))

    here: Any = forward(loss_of_slots, (params, params), axis_name)
    theta, _ = here.params
    return here._replace(params=theta), here.pullback(1.0)


def after(tree: chex.ArrayTree, value: chex.Numeric) -> jax.Array:
    """``value``, once all of the pass that makes the gradient ``tree`` has been made.

    Two passes that could run side by side would both be in memory. A sum with nothing
    keeps them apart where an optimization barrier is dropped, as on CPU.
    """
    # All arrays, since any may be the last to be made; their sums, since an array that
    # is split over devices has no element to pick.
    total = sum(jnp.sum(widen(leaf)) for leaf in jax.tree.leaves(tree))
    never = (total < 0) & (total > 0)  # not known to the compiler, and never NaN
    return jnp.add(value, never)
