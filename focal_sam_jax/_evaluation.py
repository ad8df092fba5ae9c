"""The caller's own evaluation, in a form in which the transformations use it again."""

from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp

from focal_sam_jax._devices import AxisName, device_mean
from focal_sam_jax._forward import Forward, forward
from focal_sam_jax._loss_functions import ArrayFn, PerClassLossFn, as_array_fn


@dataclass(frozen=True)
class Evaluation:
    r"""Loss and gradient of a batch, see :func:`evaluate`.

    It lives inside of the function that is being traced: ``jit`` neither takes nor
    returns it.

    Attributes:
      loss: :math:`L(\theta)`, the mean over devices, ().
      grads: :math:`\nabla L(\theta)`, the mean over devices, like the parameters.
      losses: :math:`L_c(\theta)`, the mean over devices, shape ``(num_classes,)``.
      aux: what the loss function returned besides, each device's; ``None`` without.
    """

    loss: jax.Array
    grads: chex.ArrayTree
    losses: jax.Array
    aux: Any
    # For the transformations: the axis, the forward pass, this device's own gradient.
    axis_name: AxisName
    here: Forward
    plain: chex.ArrayTree


def evaluate(
    per_class_loss_fn: PerClassLossFn,
    params: chex.ArrayTree,
    *,
    has_aux: bool = False,
    axis_name: AxisName = None,
) -> Evaluation:
    r"""The plain loss and gradient, and a forward pass that the method can use again.

    .. math:: L(\theta) = \sum_c L_c(\theta), \qquad \nabla L(\theta)

    In place of ``jax.value_and_grad`` in front of a transformation of this library.
    Handed on to ``update`` as ``evaluation``, the forward pass runs once, certainly:
    without, that is up to the compiler, which does not merge two forward passes that
    are loops over layers, or that sum over devices as BatchNorm does. In SAM the
    backward pass is shared too.

    Args:
      per_class_loss_fn: from the parameters to the per-class losses :math:`L_c` of the
        batch, floats of shape ``(num_classes,)``; with ``has_aux`` to a pair of those
        and anything. Or a sequence of functions, one a class, to a scalar.
      params: :math:`\theta`, a tree of float arrays.
      has_aux: whether the function returns ``(losses, aux)``.
      axis_name: the ``pmap`` or ``shard_map`` axis, or tuple of axes, over which the
        batch is split: the one of the transformation. Loss and gradient are means over
        it, whether ``shard_map`` checks ``vma`` or not.

    Returns:
      An :class:`Evaluation`, with ``loss``, ``grads``, ``losses`` and ``aux``.

    Raises:
      ValueError: if the losses have the wrong shape, or differ between devices whose
        axis was not named.
      TypeError: if ``per_class_loss_fn`` is not a function or returns a pair without
        ``has_aux``.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> import focal_sam_jax as fsam
      >>> tx = optax.chain(fsam.sam(rho=0.1), optax.sgd(0.5))
      >>> f = lambda p: 0.5 * jnp.sum(p**2)[None]
      >>> @jax.jit
      ... def step(params, state):
      ...     here = fsam.evaluate(f, params)
      ...     updates, state = tx.update(
      ...         here.grads, state, params, per_class_loss_fn=f, evaluation=here)
      ...     return optax.apply_updates(params, updates), state, here.loss
      >>> params = jnp.array([3.0, 4.0])
      >>> params, state, loss = step(params, tx.init(params))
      >>> float(loss)
      12.5
    """
    array_fn = as_array_fn(per_class_loss_fn, None, has_aux)
    here = forward(array_fn, params, axis_name)
    plain = here.pullback(1.0)
    losses, grads = device_mean((here.losses, plain), axis_name)
    return Evaluation(
        loss=jnp.sum(losses),
        grads=grads,
        losses=losses,
        aux=here.aux,
        axis_name=axis_name,
        here=here,
        plain=plain,
    )


def at_theta(
    evaluation: Evaluation | None,
    loss_fn: ArrayFn,
    params: chex.ArrayTree,
    num_classes: int | None,
    axis_name: AxisName,
) -> tuple[Forward, chex.ArrayTree | None]:
    r"""The forward pass at θ, and this device's :math:`\nabla L` if the caller has it.

    Raises:
      TypeError: if ``evaluation`` is something else.
      ValueError: if it is of other parameters, classes or devices.
    """
    if evaluation is None:
        return forward(loss_fn, params, axis_name), None
    if not isinstance(evaluation, Evaluation):
        raise TypeError(
            "evaluation must be what focal_sam_jax.evaluate(per_class_loss_fn, params) "
            f"returned, got {type(evaluation).__name__}."
        )
    found = jax.tree.structure(evaluation.grads), jax.tree.structure(params)
    if found[0] != found[1]:
        raise ValueError(
            "evaluation must be of the parameters that update gets, got one of "
            f"{found[0]} for {found[1]}."
        )
    if num_classes not in (None, evaluation.losses.shape[0]):
        raise ValueError(
            f"evaluation must be of {num_classes} classes, as class_counts has, got "
            f"losses of shape {evaluation.losses.shape}."
        )
    if evaluation.axis_name != axis_name:
        raise ValueError(
            "evaluate and the transformation must be given the same axis_name, got "
            f"{evaluation.axis_name!r} and {axis_name!r}."
        )
    return evaluation.here, evaluation.plain
