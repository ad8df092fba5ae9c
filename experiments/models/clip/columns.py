"""First columns of a cosine head, from what a CLIP model knows of the classes."""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from experiments.errors import UserError
from experiments.models.clip.files import TOKENIZER, Clip
from experiments.models.clip.model import image_features, text_embeddings
from experiments.models.clip.tokenizer import Tokenizer
from experiments.models.heads import unit

_TEXTS_AT_ONCE = 256


def class_embeddings(clip: Clip, prompts: Sequence[Sequence[str]]) -> np.ndarray:
    """One vector of length one for every class, in the space of both towers.

    The mean over the class's prompts of their text embeddings, each of length one.

    Args:
      clip: the model.
      prompts: of every class, all classes equally many.

    Returns:
      float32, ``(classes, embedding)``.

    Raises:
      UserError: if the model has no text tower or tokenizer.
    """
    weights = clip.text()
    if weights is None or clip.folder is None:
        raise UserError(
            "prompts need a text tower that was trained, and that of random weights "
            "was not: choose --head-init random."
        )
    sizes = clip.architecture.text
    tokens = Tokenizer(clip.folder / TOKENIZER, sizes)(
        [prompt for of_class in prompts for prompt in of_class]
    )
    # As long as the longest, which is far below the context.
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
    """The classes' embeddings, taken back through the projection of images.

    Returns:
      float32, ``(width, classes)``, columns of length one.
    """
    embeddings = class_embeddings(clip, prompts)
    weights = clip.vision()
    assert weights is not None
    columns = weights["vision_projection"]["kernel"] @ embeddings.T
    return np.asarray(unit(jnp.asarray(columns), axis=0))


def mean_columns(
    clip: Clip, batches: Iterable[tuple[jax.Array, ...]], num_classes: int
) -> np.ndarray:
    """The mean image feature of every class.

    Args:
      clip: the model.
      batches: normalised images, labels, and whether they are real.
      num_classes: of the labels.

    Returns:
      float32, ``(width, classes)``, columns of length one.
    """
    weights = clip.vision()
    if weights is None:
        raise UserError(
            "means of image features need a trained image tower, and that of random "
            "weights is not: choose --head-init random."
        )
    features = image_features(clip.architecture)

    @jax.jit
    def add(sums, weights, images, labels, real):
        found = jnp.where(real[:, None], features(weights, images), 0)
        return sums.at[labels].add(found)

    sums = jnp.zeros((num_classes, clip.architecture.vision.transformer.width))
    for batch in batches:
        sums = add(sums, weights, *batch)
    return np.asarray(unit(sums, axis=1).T)
