"""One meaning of "the gradient" on one device and on many.

Inside ``pmap`` and ``shard_map`` every device sees its share of the batch. The library
works with per-device gradients and averages them itself, so it needs them *before* any
sum over devices:

- under ``pmap`` and ``shard_map(check_vma=False)`` differentiation gives just that;
- under ``shard_map(check_vma=True)`` the gradient of a parameter that is the same on
  all devices arrives already **summed** over them. Marking the parameters as varying
  beforehand (:func:`per_device`) keeps the devices apart;
- there, a loss that was averaged over devices by its author has gradients ``1/n`` as
  large on each. :func:`share` says so, and the caller multiplies by ``n``.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import chex
import jax
import jax.numpy as jnp

AxisName = str | tuple[str, ...] | None
Tree = TypeVar("Tree")


def per_device(params: chex.ArrayTree, axis_name: AxisName) -> chex.ArrayTree:
    """``params``, typed so that their gradients are not summed over devices."""

    axes = _tracked(axis_name)
    return jax.tree.map(lambda leaf: _vary(leaf, axes), params)


def device_mean(tree: Tree, axis_name: AxisName) -> Tree:
    """The mean over ``axis_name``, leaf by leaf; ``tree`` itself without an axis."""

    def mean(leaf):
        # One by one: a value may vary along one axis and not along another.
        for axis in _names(axis_name):
            leaf = jax.lax.pmean(leaf, axis)
        return leaf

    return jax.tree.map(mean, tree)


def device_any(flags: jax.Array, axis_name: AxisName) -> jax.Array:
    """Whether a flag is up on any device; ``flags`` itself without an axis."""
    counts = flags.astype(jnp.int32)
    for axis in _names(axis_name):
        counts = jax.lax.pmax(counts, axis)
    return counts > 0


def cond(predicate: jax.Array, *branches: Callable[[], Tree]) -> Tree:
    """``jax.lax.cond`` whose branches may differ in what varies between devices.

    A number that varies in one branch is typed as varying in both.
    """
    types = [jax.make_jaxpr(branch)().out_avals for branch in branches]
    axes = [_axes(here) | _axes(there) for here, there in zip(*types, strict=True)]

    def typed(branch):
        leaves, structure = jax.tree.flatten(branch())
        return structure.unflatten(map(_vary, leaves, axes))

    return jax.lax.cond(predicate, *(partial(typed, branch) for branch in branches))


def share(losses: jax.Array, axis_name: AxisName) -> int:
    """Number of devices whose losses these are the mean of: one unless averaged."""
    averaged = [axis for axis in _tracked(axis_name) if axis not in _varying(losses)]
    return math.prod(jax.lax.axis_size(axis) for axis in averaged)


def check_axis_named(
    params: chex.ArrayTree, losses: jax.Array, axis_name: AxisName
) -> None:
    """Raises if gradients would be silently summed over an axis nobody named."""
    shared = [_varying(leaf) for leaf in jax.tree.leaves(params)]
    for axis in sorted(_varying(losses) - set(_names(axis_name))):
        if not all(axis in varying for varying in shared):
            raise ValueError(
                f"the per-class losses differ between the devices of axis {axis!r} "
                "while the parameters are shared by them, so their gradients arrive "
                f"summed over it: pass axis_name={axis!r}, or average the losses over "
                "it with jax.lax.pmean inside per_class_loss_fn."
            )


def zeros(aval: Any) -> jax.Array:
    """Zeros of a type, which says over which devices they vary and are split."""
    return _vary(
        jax.lax.broadcast(
            jnp.zeros((), aval.dtype), aval.shape, out_sharding=aval.sharding
        ),
        _axes(aval),
    )


def _names(axis_name: AxisName) -> tuple[str, ...]:
    if axis_name is None:
        return ()
    return axis_name if isinstance(axis_name, tuple) else (axis_name,)


def _tracked(axis_name: AxisName) -> list[str]:
    """The named axes along which JAX tracks what varies: ``check_vma=True``."""
    return [a for a in _names(axis_name) if a in _varying(jax.lax.axis_index(a))]


def _vary(leaf: Any, axes: Iterable[str]) -> Any:
    """``leaf``, typed as varying over ``axes`` too."""
    missing = tuple(axis for axis in axes if axis not in _varying(leaf))
    return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf


def _varying(value: Any) -> frozenset[str]:
    """Axes over which a value may differ; empty where JAX does not keep track."""
    return _axes(jax.typeof(value))


def _axes(aval: Any) -> frozenset[str]:
    # JAX 0.10 renamed the attribute.
    return aval.vma if hasattr(aval, "vma") else aval.manual_axis_type.varying
