"""Merging of linear tuners into the layers that they tune."""

from collections.abc import Sequence

import chex
import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from experiments.config import Tuner
from experiments.errors import UserError
from experiments.models.clip.architecture import Vision
from experiments.models.clip.towers import VisionTower
from experiments.models.clip.tuners import make_tuners

_NOT_LINEAR = ("vpt_shallow", "vpt_deep", "adapter", "adaptformer")


def check_mergeable(tuners: Sequence[Tuner]) -> None:
    """Raises a ``UserError`` if a tuner cannot be merged into a layer."""
    for tuner in tuners:
        if tuner in _NOT_LINEAR:
            raise UserError(
                f"the weights of {tuner} cannot be merged into CLIP's weights: export "
                "them with --separate."
            )


def merged(
    sizes: Vision,
    tuners: Sequence[Tuner],
    bottleneck: int,
    frozen: chex.ArrayTree,
    trained: chex.ArrayTree,
) -> chex.ArrayTree:
    """Computes the weights of a plain image tower equal to the tuned one.

    Args:
      sizes: sizes of the tower.
      tuners: tuners of the tower.
      bottleneck: width inside LoRA.
      frozen: frozen weights of the tower, nested dicts, float32.
      trained: trained weights of the tower, likewise.

    Returns:
      Nested dicts, without tuners.

    Raises:
      UserError: if a tuner is not linear.
    """
    check_mergeable(tuners)

    def make_tower():
        rngs = nnx.Rngs(0)
        modules = make_tuners(tuners, sizes, bottleneck, jnp.float32, rngs)
        return VisionTower(sizes, jnp.float32, rngs, modules)

    weights = flatten_dict(frozen) | flatten_dict(trained)
    graph = nnx.graphdef(nnx.eval_shape(make_tower))
    tower = nnx.merge(graph, unflatten_dict(weights))
    plain = {
        path: array
        for path, array in weights.items()
        if not (len(path) > 1 and path[1].startswith("tuner_"))
    }
    for number, block in enumerate(tower.blocks):
        for place, modules in block.tuners.items():
            factor = "scale" if place.startswith("ln_") else "kernel"
            layer = (f"block{number}", place)
            kernel, bias = plain[*layer, factor], plain[*layer, "bias"]
            for module in modules:
                kernel, bias = module.merge(jnp.asarray(kernel), jnp.asarray(bias))
            plain[*layer, factor], plain[*layer, "bias"] = kernel, bias
    return jax.device_get(unflatten_dict(plain))
