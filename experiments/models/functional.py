"""From a Flax NNX module to two pure functions over plain dicts."""

from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
from flax import nnx


class Model(NamedTuple):
    """A network.

    Attributes:
      init: ``key -> (params, batch_stats)``, nested dicts of arrays.
      apply: ``(params, batch_stats, images, *, train) -> (logits, batch_stats)``. In
        training BatchNorm uses the statistics of the batch and returns updated running
        ones, otherwise it uses the running ones and returns them as they came.
    """

    init: Callable[[jax.Array], tuple[chex.ArrayTree, chex.ArrayTree]]
    apply: Callable[..., tuple[jax.Array, chex.ArrayTree]]


def functional(make_module: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """The module that ``make_module`` builds, as a :class:`Model`.

    Args:
      make_module: builds the module from its source of randomness. Its variables are
        parameters and BatchNorm statistics, nothing else.
    """
    graph, *_ = nnx.split(nnx.eval_shape(lambda: make_module(nnx.Rngs(0))), *_KINDS)

    def init(key):
        _, params, batch_stats = nnx.split(make_module(nnx.Rngs(key)), *_KINDS)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(batch_stats)

    def apply(params, batch_stats, images, *, train):
        # A copy, because variables cannot be mutated from inside another transformation
        # than the one they were made in.
        module = nnx.merge(graph, params, batch_stats, copy=True)
        module.train() if train else module.eval()
        logits = module(images)
        return logits, nnx.to_pure_dict(nnx.state(module, nnx.BatchStat))

    return Model(init, apply)


_KINDS = (nnx.Param, nnx.BatchStat)
