"""Image towers with a last layer: tuned, zero-shot, or trained from scratch."""

from collections.abc import Callable, Sequence
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from experiments.config import Tuner
from experiments.models.clip.architecture import Vision
from experiments.models.clip.random_weights import random_weights
from experiments.models.clip.towers import VisionTower
from experiments.models.clip.transformer import dense
from experiments.models.clip.tuners import is_tuned, make_tuners
from experiments.models.functional import Model, functional
from experiments.models.heads import CosineHead, Head, make_head
from experiments.models.layers import uniform


def vision_transformer(
    sizes: Vision,
    num_classes: int,
    *,
    head: Head = "linear",
    scale: float = 1.0,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """Returns a network of CLIP's form, trained from scratch.

    Args:
      sizes: sizes of the image tower.
      num_classes: size of the output.
      head: the last layer, linear or cosine.
      scale: factor of the cosines.
      dtype: dtype of the computation, float32 or bfloat16.
    """
    module = partial(_Classifier, sizes, num_classes, head, scale, (), 1, dtype)
    return functional(module, weights=_drawn(sizes), per_example=True)


def tuned_clip(
    sizes: Vision,
    num_classes: int,
    *,
    tuners: Sequence[Tuner],
    bottleneck: int,
    weights: chex.ArrayTree | None,
    head: Head = "cosine",
    scale: float = 25.0,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """Returns a trained image tower, mostly frozen, with a new last layer.

    Frozen kernels, which are only factors of products, are stored in ``dtype``.

    Args:
      sizes: sizes of the tower.
      num_classes: size of the output.
      tuners: what is trained beside the last layer; empty for a probe.
      bottleneck: width inside AdaptFormer, Adapter and LoRA.
      weights: weights of the tower, nested dicts; ``None`` draws them, the frozen
        ones always with the same key.
      head: the last layer, cosine or linear.
      scale: factor of the cosines.
      dtype: dtype of the computation, float32 or bfloat16.
    """

    def is_trained(path):
        return path[0] != "vision" or is_tuned(tuners, path[1:])

    def narrow(path, array):
        is_factor = path[-1].key == "kernel"
        return np.asarray(array, dtype) if is_factor else array

    model = functional(
        partial(
            _Classifier, sizes, num_classes, head, scale, tuners, bottleneck, dtype
        ),
        weights=_drawn(sizes) if weights is None else lambda key: {"vision": weights},
        is_trained=is_trained,
        per_example=True,
    )
    if dtype == jnp.float32:
        return model
    frozen = jax.tree_util.tree_map_with_path(narrow, model.frozen)
    return model._replace(frozen=frozen)


def zero_shot_clip(
    sizes: Vision, weights: chex.ArrayTree, classes: np.ndarray, dtype: DTypeLike
) -> Model:
    """Returns zero-shot CLIP, whose last layer has a text embedding for every class.

    Args:
      sizes: sizes of the image tower.
      weights: ``vision`` and ``vision_projection`` of the model, nested dicts.
      classes: a vector for every class, float32, ``(classes, embedding)``.
      dtype: dtype of the computation, float32 or bfloat16.

    Returns:
      A network without trained parameters. Its logits are cosines times 100, the scale
      at the end of CLIP's training.
    """
    module = partial(_ZeroShot, sizes, classes.shape, dtype)
    frozen = {**weights, "head": {"columns": classes.T}}
    return functional(module, weights=lambda key: frozen, is_trained=lambda path: False)


def image_features(sizes: Vision, weights: chex.ArrayTree) -> Model:
    """Returns the image tower as a network without trained parameters or last layer.

    Its logits are the features for a last layer, float32, ``(batch, width)``.

    Args:
      sizes: sizes of the tower.
      weights: weights of the tower, nested dicts.
    """
    module = partial(VisionTower, sizes, jnp.float32)
    return functional(
        module, weights=lambda key: weights, is_trained=lambda path: False
    )


class _ZeroShot(nnx.Module):
    def __init__(self, sizes, shape, dtype, rngs):
        num_classes, embedding = shape
        width = sizes.transformer.width
        self.vision = VisionTower(sizes, dtype, rngs)
        self.vision_projection = dense(
            width, embedding, rngs, dtype=jnp.float32, use_bias=False
        )
        self.head = CosineHead(
            embedding, num_classes, rngs, scale=100.0, dtype=jnp.float32
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        features = self.vision(images).astype(jnp.float32)
        return self.head(self.vision_projection(features))


class _Classifier(nnx.Module):
    def __init__(
        self,
        sizes: Vision,
        num_classes: int,
        head: Head,
        scale: float,
        tuners: Sequence[Tuner],
        bottleneck: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.head = make_head(
            head,
            sizes.transformer.width,
            num_classes,
            rngs,
            init=uniform(sizes.transformer.width**-0.5),
            scale=scale,
            dtype=dtype,
        )
        modules = make_tuners(tuners, sizes, bottleneck, dtype, rngs)
        self.vision = VisionTower(sizes, dtype, rngs, modules)

    def __call__(self, images: jax.Array) -> jax.Array:
        features = self.vision(images)
        # In float32 or wider, like the layer normalisation before.
        wide = jnp.promote_types(features.dtype, jnp.float32)
        return self.head(features.astype(wide))


def _drawn(sizes: Vision) -> Callable[[jax.Array], chex.ArrayTree]:
    tower = nnx.eval_shape(lambda: VisionTower(sizes, jnp.float32, nnx.Rngs(0)))
    shapes = nnx.to_pure_dict(nnx.state(tower, nnx.Param))
    return lambda key: {"vision": random_weights(key, shapes, sizes.transformer)}
