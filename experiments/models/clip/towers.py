"""CLIP's two towers: a vision transformer, and a causal transformer over tokens."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

import focal_sam_jax as fsam
from experiments.models.clip.architecture import Text, Transformer, Vision
from experiments.models.clip.transformer import Block, LayerNorm, MakeTuners, dense


class _Blocks(nnx.Module):
    """The blocks of a tower, named ``block0``, ``block1`` and so on."""

    def __init__(
        self,
        sizes: Transformer,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        make_tuners: MakeTuners | None = None,
    ):
        self._names = tuple(f"block{i}" for i in range(sizes.layers))
        for i, name in enumerate(self._names):
            tuners = make_tuners(i, sizes) if make_tuners else {}
            setattr(self, name, Block(sizes, tuners, dtype, rngs))

    @property
    def blocks(self) -> list[Block]:
        """The blocks in their order."""
        return [getattr(self, name) for name in self._names]


class VisionTower(_Blocks):
    """The image tower: ``(batch, size, size, channels)`` to ``(batch, width)``.

    The feature is the class token after the last normalisation, without projection.
    Weights are zeros until they are replaced.

    References:
      Radford et al., `Learning Transferable Visual Models From Natural Language
      Supervision <https://arxiv.org/abs/2103.00020>`_, ICML 2021
    """

    def __init__(
        self,
        sizes: Vision,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        make_tuners: MakeTuners | None = None,
    ):
        super().__init__(sizes.transformer, dtype, rngs, make_tuners)
        width, patch = sizes.transformer.width, sizes.patch_size
        self.patch = dense(
            patch * patch * sizes.channels, width, rngs, dtype=dtype, use_bias=False
        )
        self.class_embedding = nnx.Param(jnp.zeros(width))
        self.position = nnx.Param(jnp.zeros((sizes.tokens, width)))
        self.ln_pre = LayerNorm(width, rngs)
        self.ln_post = LayerNorm(width, rngs)
        self._sizes, self._dtype = sizes, dtype

    def __call__(self, images: jax.Array) -> jax.Array:
        x = self.embed(images)
        for block in self.blocks:
            x = block(x, causal=False)
        return self.ln_post(x[:, 0])

    def embed(self, images: jax.Array) -> jax.Array:
        """Computes the input of the blocks, ``(batch, tokens, width)``."""
        # A convolution whose stride equals its size is a product with every patch.
        x = self.patch(self._patches(images))
        weights = self.class_embedding.get_value(), self.position.get_value()
        return self.ln_pre(fsam.apply_per_example(_placed, weights, x))

    def _patches(self, images):
        batch, size, _, channels = images.shape
        patch = self._sizes.patch_size
        side = size // patch
        x = images.reshape(batch, side, patch, side, patch, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(batch, side * side, patch * patch * channels)


def _placed(weights, x):
    """Prepends the class token, and adds the position embeddings."""
    class_embedding, position = weights
    first = jnp.broadcast_to(class_embedding, (len(x), 1, x.shape[-1]))
    x = jnp.concatenate([first.astype(x.dtype), x], axis=1)
    return x + position.astype(x.dtype)[None]


class TextTower(_Blocks):
    """The text tower: int ``(batch, length)`` to ``(batch, width)``.

    The feature is the end token after the last normalisation, without projection.
    """

    def __init__(self, sizes: Text, dtype: DTypeLike, rngs: nnx.Rngs):
        super().__init__(sizes.transformer, dtype, rngs)
        width = sizes.transformer.width
        self.token_embedding = nnx.Param(jnp.zeros((sizes.vocabulary, width)))
        self.position = nnx.Param(jnp.zeros((sizes.context, width)))
        self.ln_final = LayerNorm(width, rngs)
        self._sizes, self._dtype = sizes, dtype

    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x, causal=True)
        end = self._sizes.end_token
        # The first position of the largest value.
        places = jnp.argmax(tokens if end is None else tokens == end, axis=1)
        x = jnp.take_along_axis(x, places[:, None, None], axis=1)[:, 0]
        return self.ln_final(x)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """Computes the input of the blocks, ``(batch, length, width)``."""
        # Tokens after the last end token have no effect and may be missing.
        position = self.position[...][: tokens.shape[1]]
        x = self.token_embedding[...][tokens] + position[None]
        return x if self._dtype == jnp.float32 else x.astype(self._dtype)
