"""From a Flax NNX module to pure functions over plain dicts."""

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
        training BatchNorm uses the statistics of the batch and returns updated running
        ones, otherwise it uses the running ones and returns them as they came.
      frozen: weights that training leaves as they are, nested dicts of NumPy arrays;
        mostly there are none.
      per_example: whether no layer mixes the examples of a training batch, as BatchNorm
        does, and all parameters pass through ``focal_sam_jax.apply_per_example``.
    """

    init: Callable[[jax.Array], tuple[chex.ArrayTree, chex.ArrayTree]]
    apply: Callable[..., tuple[jax.Array, chex.ArrayTree]]
    frozen: Any = {}
    per_example: bool = False

    def given(self, frozen: chex.ArrayTree) -> "Model":
        """The network with its frozen weights as arguments of a compiled program.

        Those that it brings along would be constants of the program.
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
    """The module that ``make_module`` builds, as a :class:`Model`.

    Args:
      make_module: builds the module from its source of randomness. Its variables are
        parameters and BatchNorm statistics, nothing else.
      weights: ``key -> params`` gives other initial values than the module's own to
        some of the parameters, nested dicts.
      is_trained: whether the parameter of that path is trained, or frozen.
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
        # A copy, because variables cannot be mutated from inside another transformation
        # than the one they were made in.
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
    """The parameters whose path is chosen, as nested dicts."""
    return unflatten_dict({path: x for path, x in params.items() if chosen(path)})
