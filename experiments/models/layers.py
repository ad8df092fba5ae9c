"""Layers and initialisers of the networks.

``dtype`` is always the dtype of the computation, float32 or bfloat16. Float32 means
the dtype of images and weights: float64 inputs are computed in float64.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

import focal_sam_jax as fsam
from experiments.errors import UserError


def per_example(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wraps a layer's method in ``fsam.apply_per_example``.

    The method must not mix examples. The first axis of its arguments and of its result
    is the axis of the examples.
    """

    @wraps(method)
    def known(layer, *inputs):
        graph, weights = nnx.split(layer)

        def apply(weights, inputs):
            return method(nnx.merge(graph, weights), *inputs)

        return fsam.apply_per_example(apply, weights, inputs)

    return known


def block_plan(blocks: Sequence[int]) -> Iterator[tuple[str, int, int]]:
    """Yields name, stage and stride of every residual block, in order.

    The first block of every stage but the first halves the image.

    Args:
      blocks: number of blocks in every stage.
    """
    for stage, number in enumerate(blocks):
        for block in range(number):
            stride = 2 if stage > 0 and block == 0 else 1
            yield f"stage{stage}_block{block}", stage, stride


def kaiming_fan_in(key, shape, dtype=jnp.float32) -> jax.Array:
    """Draws normal numbers with variance 2 / fan_in; kernel shapes end in (in, out).

    They are not truncated, unlike those of Flax and JAX's ``kaiming_normal``.
    """
    fan_in = math.prod(shape[:-1])
    return math.sqrt(2 / fan_in) * _normal(key, shape, dtype)


def kaiming_fan_out(key, shape, dtype=jnp.float32) -> jax.Array:
    """Draws like :func:`kaiming_fan_in`, but with variance 2 / fan_out."""
    fan_out = math.prod(shape[:-2]) * shape[-1]
    return math.sqrt(2 / fan_out) * _normal(key, shape, dtype)


def normal(std: float) -> Initializer:
    """Returns an initialiser: normal, mean 0, deviation ``std``, not truncated."""

    def init(key, shape, dtype=jnp.float32):
        return std * _normal(key, shape, dtype)

    return init


def uniform(bound: float) -> Initializer:
    """Returns an initialiser, uniform between ``-bound`` and ``bound``."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _normal(key, shape, dtype):
    # Drawn as a vector: the numbers are the same, and XLA compiles this in a fifth of
    # the time of a draw in the kernel's shape.
    return jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)


def conv(
    in_channels: int,
    out_channels: int,
    size: int,
    stride: int,
    rngs: nnx.Rngs,
    *,
    init: Initializer,
    dtype: DTypeLike,
    groups: int = 1,
) -> nnx.Conv:
    """Makes a convolution without bias, with a square kernel of odd ``size``."""
    # Equal padding on all sides, as in PyTorch; "SAME" shifts strided convolutions.
    return nnx.Conv(
        in_channels,
        out_channels,
        (size, size),
        strides=stride,
        padding=size // 2,
        feature_group_count=groups,
        use_bias=False,
        kernel_init=init,
        dtype=None if dtype == jnp.float32 else dtype,
        rngs=rngs,
    )


class BatchNorm(nnx.Module):
    """Normalisation over batch, height and width, with PyTorch's running statistics.

    A training batch is normalised by its biased variance. The running statistics move
    by a tenth towards the batch mean and the unbiased variance. Flax's layer stores the
    biased variance, and at bfloat16 it rounds weights and statistics before use. Here
    all arithmetic is in float32 or wider, and only the result has the input's dtype.
    """

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(channels, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(channels, jnp.float32))
        self.use_running_average = False  # set by train() and eval() of the network

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            mean, var = self._of_batch(wide)
        # Computes one number per channel, then broadcasts. XLA compiles other orders
        # differently with and without a backward pass, and does not merge the two.
        factor = jax.lax.rsqrt(var + 1e-5) * self.scale[...]
        shift = self.bias[...] - mean * factor
        # Not (x - mean) * factor: the backward pass would need x - mean beside x, which
        # the variance needs anyway. It would be a third of what a ResNet stores.
        factor, shift = (jnp.expand_dims(array, (0, 1, 2)) for array in (factor, shift))
        return (wide * factor + shift).astype(x.dtype)

    def _of_batch(self, x):
        """Computes mean and variance of the batch, and updates the running ones."""
        axes = (0, 1, 2)
        mean = jnp.mean(x, axes)
        # Both come from one pass over x. Rounding may make the difference negative.
        var = jnp.maximum(jnp.mean(jnp.square(x), axes) - jnp.square(mean), 0.0)
        size = x.size // x.shape[-1]
        if size == 1:
            raise UserError(
                "BatchNorm needs more than one value per channel, but a batch of one "
                "image has one: use a larger --batch-size, or larger images."
            )
        unbiased = var * (size / (size - 1))
        for running, of_batch in ((self.mean, mean), (self.var, unbiased)):
            moved = 0.9 * running[...] + 0.1 * of_batch
            # Not ``running[...] =``: Flax would ask a traced array for its sharding.
            # JAX is slow to build the error message, which Flax discards.
            running.set_value(moved.astype(running[...].dtype))
        return mean, var


def relu_of_sum(x: jax.Array, y: jax.Array) -> jax.Array:
    """Computes ``relu(x + y)``, the end of a residual block."""
    total = x + y
    # Not max(total, 0), which is equal: XLA treats max as cheap and recomputes it at
    # every use and, through the shortcuts, all blocks before it. On CPU the gradients
    # of kernels spent most of a step on that.
    return jnp.where(total <= 0, 0, total)


def mean_over_image(x: jax.Array) -> jax.Array:
    """Averages ``(batch, height, width, channels)`` to ``(batch, channels)``.

    The result is float32 or wider.
    """
    return jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))
