"""Wrong ways to call or to wrap a transformation, each met with the right one."""

import inspect
from typing import Any

import chex
import jax
import optax


def check_composition(
    name: str, updates: chex.ArrayTree, params: Any, per_class_loss_fn: Any
) -> None:
    """Raises unless ``update`` was called so that its result means something.

    Args:
      name: name of the transformation, for the messages.
      updates: the incoming updates.
      params: the parameters, or ``None`` if they were not passed.
      per_class_loss_fn: the loss function, or ``None`` if it was not passed.

    Raises:
      ValueError: if something is missing, masked, or does not match.
    """
    if params is None:
        raise ValueError(
            f"{name} needs the parameters, got params=None: call tx.update(grads, "
            "state, params, per_class_loss_fn=f)."
        )
    if _inside_multi_steps():
        raise ValueError(
            f"{name} is wrapped by optax.MultiSteps, which would correct the gradient "
            "accumulated over many batches with the loss of the last one. Put it in "
            f"front: optax.chain({name}(...), optax.MultiSteps(optimizer, "
            "every_k_schedule))."
        )
    if per_class_loss_fn is None:
        raise ValueError(
            f"{name} needs the loss function: call tx.update(grads, state, params, "
            "per_class_loss_fn=f), where f(params) returns the per-class losses of the "
            "batch, shape (num_classes,). If you did, a wrapper dropped it "
            "(optax.lookahead does): use focal_sam_jax.sharpness_aware_value_and_grad "
            "there, which needs no extra argument."
        )
    if _is_masked(params) or _is_masked(updates):
        raise ValueError(
            f"{name} got a masked parameter tree, as optax.masked and optax.partition "
            "make it, and no loss function can be called on one. Chain it in front of "
            "that wrapper; to perturb a part of the parameters only, use its own "
            f"argument: {name}(..., mask=...)."
        )
    if jax.tree.structure(updates) != jax.tree.structure(params):
        raise ValueError(
            f"{name} needs updates and params of one structure, got "
            f"{jax.tree.structure(updates)} and {jax.tree.structure(params)}."
        )


def _is_masked(tree: chex.ArrayTree) -> bool:
    def is_node(leaf):
        return isinstance(leaf, optax.MaskedNode)

    return any(map(is_node, jax.tree.leaves(tree, is_leaf=is_node)))


def _inside_multi_steps() -> bool:
    # The accumulated gradient looks like any other; only the caller gives it away.
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is optax.MultiSteps.update.__code__:
            return True
        frame = frame.f_back
    return False
