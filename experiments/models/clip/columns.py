"""CLIP's text embeddings of the classes, as columns of a cosine head."""

from collections.abc import Callable, Sequence

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.errors import UserError
from experiments.models.clip.architecture import Architecture
from experiments.models.clip.files import Clip
from experiments.models.clip.tokenizer import Tokenizer
from experiments.models.clip.towers import TextTower
from experiments.models.heads import unit
from experiments.models.weight_files import TOKENIZER

_TEXTS_AT_ONCE = 256


def class_embeddings(clip: Clip, prompts: Sequence[Sequence[str]]) -> np.ndarray:
    """Computes a unit vector for every class, in the space of both towers.

    It is the normalised mean of the class's normalised text embeddings.

    Args:
      clip: the model.
      prompts: prompts of every class, equally many for all.

    Returns:
      float32, ``(classes, embedding)``.

    Raises:
      UserError: if the model has no text tower or tokenizer.
    """
    weights = clip.text()
    if weights is None or clip.folder is None:
        raise UserError(
            "prompts need a trained text tower, but this one has random weights: "
            "choose --head-init random."
        )
    sizes = clip.architecture.text
    tokens = Tokenizer(clip.folder / TOKENIZER, sizes)(
        [prompt for of_class in prompts for prompt in of_class]
    )
    # Cut to the longest text, far below the context.
    tokens = tokens[:, : np.nonzero(tokens)[1].max() + 1]
    rest = -len(tokens) % min(_TEXTS_AT_ONCE, len(tokens))
    padded = np.concatenate([tokens, np.repeat(tokens[:1], rest, axis=0)])
    encode = jax.jit(text_embeddings(clip.architecture))
    parts = np.split(padded, len(padded) // min(_TEXTS_AT_ONCE, len(tokens)))
    found = np.concatenate([np.asarray(encode(weights, part)) for part in parts])
    every = unit(jnp.asarray(found[: len(tokens)]), axis=1)
    of_class = every.reshape(len(prompts), -1, every.shape[1]).mean(axis=1)
    return np.asarray(unit(of_class, axis=1))


def text_columns(clip: Clip, prompts: Sequence[Sequence[str]]) -> np.ndarray:
    """Multiplies the class embeddings by the kernel of the image projection.

    Returns:
      float32, ``(width, classes)``, columns of length one.
    """
    embeddings = class_embeddings(clip, prompts)
    weights = clip.vision()
    assert weights is not None
    columns = weights["vision_projection"]["kernel"] @ embeddings.T
    return np.asarray(unit(jnp.asarray(columns), axis=0))


def text_embeddings(
    architecture: Architecture,
) -> Callable[[chex.ArrayTree, jax.Array], jax.Array]:
    """Returns a function of weights and int tokens, ``(batch, length)``.

    Its result is ``(batch, embedding)``.
    """
    graph = nnx.graphdef(
        nnx.eval_shape(lambda: TextTower(architecture.text, jnp.float32, nnx.Rngs(0)))
    )

    def encode(weights, tokens):
        features = nnx.merge(graph, weights["text"])(tokens)
        return features @ weights["text_projection"]["kernel"]

    return encode
