"""Last layers, which map float32 features to float32 logits.

``dtype`` is the dtype of the product, as in :mod:`experiments.models.layers`.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from experiments.models.layers import per_example, uniform

Head = Literal["linear", "cosine"]


class LinearHead(nnx.Module):
    """``x @ kernel + bias``, with logits in the dtype of the weights."""

    def __init__(
        self,
        features: int,
        num_classes: int,
        rngs: nnx.Rngs,
        *,
        init: Initializer,
        dtype: DTypeLike,
    ):
        shape = (features, num_classes)
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32))
        self.bias = nnx.Param(uniform(features**-0.5)(rngs.params(), (num_classes,)))
        self._dtype = dtype

    @per_example
    def __call__(self, x: jax.Array) -> jax.Array:
        logits = _product(x, self.kernel[...], self._dtype)
        return logits + jnp.expand_dims(self.bias[...], 0)


class CosineHead(nnx.Module):
    """Cosines of the features with one column per class, times a fixed scale.

    Columns are drawn uniformly from a cube and scaled to length one. The gradient with
    respect to a vector of length zero is zero.

    References:
      Cao et al., `Learning Imbalanced Datasets with Label-Distribution-Aware Margin
      Loss <https://arxiv.org/abs/1906.07413>`_, NeurIPS 2019
    """

    def __init__(
        self,
        features: int,
        num_classes: int,
        rngs: nnx.Rngs,
        *,
        scale: float,
        dtype: DTypeLike,
    ):
        columns = uniform(1.0)(rngs.params(), (features, num_classes))
        self.columns = nnx.Param(unit(columns, axis=0))
        self._scale, self._dtype = scale, dtype

    @per_example
    def __call__(self, x: jax.Array) -> jax.Array:
        columns = unit(self.columns[...], axis=0)
        return self._scale * _product(unit(x, axis=1), columns, self._dtype)


def make_head(
    head: Head,
    features: int,
    num_classes: int,
    rngs: nnx.Rngs,
    *,
    init: Initializer,
    scale: float,
    dtype: DTypeLike,
) -> nnx.Module:
    """Makes the last layer; "linear" uses ``init``, "cosine" uses ``scale``."""
    match head:
        case "linear":
            return LinearHead(features, num_classes, rngs, init=init, dtype=dtype)
        case "cosine":
            return CosineHead(features, num_classes, rngs, scale=scale, dtype=dtype)
    raise ValueError(f"head must be 'linear' or 'cosine', got {head!r}.")


def _product(x, kernel, dtype):
    """Computes ``x @ kernel``; rounds the factors to ``dtype``, but not the sum."""
    wide = jnp.result_type(x, kernel)
    if dtype != jnp.float32:
        x, kernel = x.astype(dtype), kernel.astype(dtype)
    return jnp.matmul(x, kernel, preferred_element_type=wide)


def unit(x: jax.Array, axis: int) -> jax.Array:
    """Divides vectors along ``axis`` by their length; lengths up to 1e-12 become 0."""
    square = jnp.sum(jnp.square(x), axis, keepdims=True)
    # The inner choice keeps the gradient finite where the outer one discards the value.
    long_enough = square > 1e-24
    of_length_one = x * jax.lax.rsqrt(jnp.where(long_enough, square, 1.0))
    return jnp.where(long_enough, of_length_one, 0.0)
