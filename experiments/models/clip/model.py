"""Both towers as pure functions of their weights."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from experiments.models.clip.architecture import Architecture
from experiments.models.clip.towers import TextTower, VisionTower
from experiments.models.heads import unit

# (weights, images or tokens) -> (batch, size)
Encoder = Callable[[chex.ArrayTree, jax.Array], jax.Array]


def image_features(
    architecture: Architecture, dtype: DTypeLike = jnp.float32
) -> Encoder:
    """From ``{"vision": …}`` and images to the features that a last layer reads."""
    graph = nnx.graphdef(
        nnx.eval_shape(lambda: VisionTower(architecture.vision, dtype, nnx.Rngs(0)))
    )

    def encode(weights, images):
        return nnx.merge(graph, weights["vision"])(images)

    return encode


def image_embeddings(
    architecture: Architecture, dtype: DTypeLike = jnp.float32
) -> Encoder:
    """From weights and images to the space of both towers, ``(batch, embedding)``."""
    features = image_features(architecture, dtype)

    def encode(weights, images):
        return features(weights, images) @ weights["vision_projection"]["kernel"]

    return encode


def text_embeddings(
    architecture: Architecture, dtype: DTypeLike = jnp.float32
) -> Encoder:
    """From weights and int tokens, ``(batch, context)``, to the same space."""
    graph = nnx.graphdef(
        nnx.eval_shape(lambda: TextTower(architecture.text, dtype, nnx.Rngs(0)))
    )

    def encode(weights, tokens):
        features = nnx.merge(graph, weights["text"])(tokens)
        return features @ weights["text_projection"]["kernel"]

    return encode


def similarity(
    images: jax.Array, texts: jax.Array, logit_scale: jax.Array
) -> jax.Array:
    """``exp(logit_scale) cos(image, text)`` of embeddings, ``(images, texts)``."""
    return jnp.exp(logit_scale) * unit(images, axis=1) @ unit(texts, axis=1).T
