"""Gradients on one device and on several data-parallel devices.

Inside ``pmap`` and ``shard_map`` every device sees its share of the batch. The library
averages per-device gradients itself, so it needs them *before* any sum over devices:

- under ``pmap`` and ``shard_map(check_vma=False)`` differentiation gives them;
- under ``shard_map(check_vma=True)`` JAX **sums** the gradient of a parameter that is
  the same on all devices over the devices. :func:`per_device` marks the parameters as
  varying, so that JAX does not sum;
- also under ``check_vma=True``, if the user's loss is already averaged over ``n``
  devices, the gradient on each device is ``1/n`` as large. :func:`share` returns
  ``n``, and the caller multiplies by it.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import chex
import jax
import jax.numpy as jnp

AxisName = str | Sequence[str] | None
Tree = TypeVar("Tree")


def per_device(params: chex.ArrayTree, axis_name: AxisName) -> chex.ArrayTree:
    """Returns ``params``, typed so that gradients are not summed over devices."""

    axes = _tracked(axis_name)
    return jax.tree.map(lambda leaf: _vary(leaf, axes), params)


def device_mean(tree: Tree, axis_name: AxisName) -> Tree:
    """Returns the mean of each leaf over ``axis_name``, or ``tree`` if it is None."""

    def mean(leaf):
        # One axis at a time: a value may vary along one axis and not along another.
        for axis in axis_names(axis_name):
            leaf = jax.lax.pmean(leaf, axis)
        return leaf

    return jax.tree.map(mean, tree)


def varying_like(tree: Tree, params: chex.ArrayTree, axis_name: AxisName) -> Tree:
    """Returns ``tree``, typed as a function of ``params`` averaged over ``axis_name``.

    Parameters that differ between devices, as in federated training, make all that is
    computed from them differ too. A loop must begin with values of that type.
    """
    arrays = (leaf for leaf in jax.tree.leaves(params) if isinstance(leaf, jax.Array))
    axes = frozenset().union(*map(_varying, arrays)).difference(axis_names(axis_name))
    return jax.tree.map(lambda leaf: _vary(leaf, axes), tree)


def cond(predicate: jax.Array, *branches: Callable[[], Tree]) -> Tree:
    """Runs ``jax.lax.cond`` with branches whose outputs vary over different axes.

    An output that varies over a device axis in one branch is typed so in both.
    """
    types = [jax.make_jaxpr(branch)().out_avals for branch in branches]
    axes = [_axes(here) | _axes(there) for here, there in zip(*types, strict=True)]

    def typed(branch):
        leaves, structure = jax.tree.flatten(branch())
        return structure.unflatten(map(_vary, leaves, axes))

    return jax.lax.cond(predicate, *(partial(typed, branch) for branch in branches))


def share(losses: jax.Array, axis_name: AxisName) -> int:
    """Returns over how many devices ``losses`` are averaged; 1 if they are not."""
    averaged = [axis for axis in _tracked(axis_name) if axis not in _varying(losses)]
    return math.prod(jax.lax.axis_size(axis) for axis in averaged)


def check_axis_named(
    params: chex.ArrayTree, losses: jax.Array, axis_name: AxisName
) -> None:
    """Raises if gradients would be silently summed over axes not in ``axis_name``."""
    shared = [_varying(leaf) for leaf in jax.tree.leaves(params)]
    for axis in sorted(_varying(losses) - set(axis_names(axis_name))):
        if not all(axis in varying for varying in shared):
            raise ValueError(
                f"the per-class losses differ between the devices of axis {axis!r} but "
                "the parameters do not, so the gradients are already summed over it: "
                f"pass axis_name={axis!r}, or average the losses over it with "
                "jax.lax.pmean inside per_class_loss_fn."
            )


def zeros(aval: Any) -> jax.Array:
    """Returns zeros with the shape, dtype, sharding and varying axes of ``aval``."""
    return _vary(
        jax.lax.broadcast(
            jnp.zeros((), aval.dtype), aval.shape, out_sharding=aval.sharding
        ),
        _axes(aval),
    )


def axis_names(axis_name: AxisName) -> tuple[str, ...]:
    """Returns the names of the axes, none for ``None``."""
    return (axis_name,) if isinstance(axis_name, str) else tuple(axis_name or ())


def _tracked(axis_name: AxisName) -> list[str]:
    """Returns the axes whose varying values JAX tracks, as with ``check_vma=True``."""
    return [a for a in axis_names(axis_name) if a in _varying(jax.lax.axis_index(a))]


def _vary(leaf: Any, axes: Iterable[str]) -> Any:
    """Returns ``leaf``, typed as varying over ``axes`` too."""
    missing = tuple(axis for axis in axes if axis not in _varying(leaf))
    return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf


def _varying(value: Any) -> frozenset[str]:
    """Returns the axes over which JAX tracks that ``value`` may differ."""
    return _axes(jax.typeof(value))


def _axes(aval: Any) -> frozenset[str]:
    # JAX 0.10 renamed the attribute.
    return aval.vma if hasattr(aval, "vma") else aval.manual_axis_type.varying
