"""Random initialisation of a tower's weights."""

import chex
import jax
import jax.numpy as jnp

from experiments.models.clip.architecture import Transformer
from experiments.models.layers import normal


def random_weights(
    key: jax.Array, shapes: chex.ArrayTree, sizes: Transformer
) -> chex.ArrayTree:
    """Draws a tower's weights as at the start of CLIP's training.

    Scales of normalisations are one, biases are zero, the rest is normal. Layers that
    add to the residual have a smaller standard deviation in deeper towers.

    Args:
      key: random key.
      shapes: shapes of the tower's parameters, nested dicts.
      sizes: sizes of its transformer.

    Returns:
      Arrays of those shapes, float32.

    References:
      Radford et al., `Learning Transferable Visual Models From Natural Language
      Supervision <https://arxiv.org/abs/2103.00020>`_, ICML 2021, and its published
      code
    """
    residual = (2 * sizes.layers * sizes.width) ** -0.5
    deviations = {
        "out": residual,
        "fc2": residual,
        "fc1": (2 * sizes.width) ** -0.5,
        "token_embedding": 0.02,
    }

    def draw(i, path, shape):
        *modules, name = (entry.key for entry in path)
        if name in ("scale", "bias"):
            return jnp.full(shape, float(name == "scale"))
        layer = modules[-1] if modules else name
        deviation = deviations.get(layer, sizes.width**-0.5)
        return normal(deviation)(jax.random.fold_in(key, i), shape)

    leaves, treedef = jax.tree_util.tree_flatten_with_path(shapes)
    drawn = [draw(i, path, leaf.shape) for i, (path, leaf) in enumerate(leaves)]
    return jax.tree.unflatten(treedef, drawn)
