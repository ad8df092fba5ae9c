"""Conversion of Flax NNX modules to pure functions over nested dicts."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict


class Model(NamedTuple):
    """A network.

    Attributes:
      init: ``key -> (params, batch_stats)``, nested dicts of arrays.
      apply: ``(params, batch_stats, images, *, train) -> (logits, batch_stats)``. In
        training BatchNorm uses batch statistics and returns updated running statistics;
        otherwise it uses the running statistics and returns them unchanged.
      frozen: weights that training does not change, nested dicts of NumPy arrays;
        usually empty.
      per_example: whether the network has no cross-example layers such as BatchNorm,
        and applies all parameters by ``focal_sam_jax.apply_per_example``.
    """

    init: Callable[[jax.Array], tuple[chex.ArrayTree, chex.ArrayTree]]
    apply: Callable[..., tuple[jax.Array, chex.ArrayTree]]
    frozen: Any = {}
    per_example: bool = False

    def given(self, frozen: chex.ArrayTree) -> "Model":
        """Returns the network with ``frozen`` in place of its own frozen weights.

        Its own weights would become constants of a compiled program.
        """
        if not self.frozen:
            return self
        return self._replace(apply=partial(self.apply, frozen=frozen))


def functional(
    make_module: Callable[[nnx.Rngs], nnx.Module],
    *,
    weights: Callable[[jax.Array], chex.ArrayTree] | None = None,
    is_trained: Callable[[tuple[str, ...]], bool] = lambda path: True,
    per_example: bool = False,
) -> Model:
    """Converts the module that ``make_module`` builds to a :class:`Model`.

    Args:
      make_module: builds the module from a source of randomness. The variables must be
        parameters and BatchNorm statistics only.
      weights: ``key -> params``, nested dicts: initial values of some parameters, in
        place of the module's own.
      is_trained: whether the parameter at a path is trained; otherwise it is frozen.
      per_example: as in :class:`Model`.
    """
    graph, *_ = nnx.split(nnx.eval_shape(lambda: make_module(nnx.Rngs(0))), *_KINDS)

    def start(key):
        _, params, batch_stats = nnx.split(make_module(nnx.Rngs(key)), *_KINDS)
        params = flatten_dict(nnx.to_pure_dict(params))
        if weights is not None:
            params |= flatten_dict(weights(jax.random.fold_in(key, 1)))
        return params, nnx.to_pure_dict(batch_stats)

    def init(key):
        params, batch_stats = start(key)
        return _those(params, is_trained), batch_stats

    def apply(params, batch_stats, images, *, train, frozen):
        params = unflatten_dict(flatten_dict(params) | flatten_dict(frozen))
        # A copy, because variables can be changed only inside the transformation in
        # which they were made.
        module = nnx.merge(graph, params, batch_stats, copy=True)
        module.train() if train else module.eval()
        logits = module(images)
        return logits, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    frozen = {}
    shapes, _ = jax.eval_shape(start, jax.random.key(0))
    if not all(map(is_trained, shapes)):
        params, _ = start(jax.random.key(0))
        frozen = _those(params, lambda path: not is_trained(path))
        frozen = jax.tree.map(np.asarray, frozen)
    return Model(init, partial(apply, frozen=frozen), frozen, per_example)


_KINDS = (nnx.Param, nnx.BatchStat)


def _those(params, chosen):
    """Returns the parameters whose path is chosen, as nested dicts."""
    return unflatten_dict({path: x for path, x in params.items() if chosen(path)})
