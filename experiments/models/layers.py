"""What the networks are made of.

Everywhere ``dtype`` is that of the computation, float32 or bfloat16. Float32 stands for
the precision of images and weights, so that float64 ones are computed in float64.
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
    """A layer's method that treats every example by itself, made known as such.

    Its arguments and its result have the examples along their first axis.
    """

    @wraps(method)
    def known(layer, *inputs):
        graph, weights = nnx.split(layer)

        def apply(weights, inputs):
            return method(nnx.merge(graph, weights), *inputs)

        return fsam.apply_per_example(apply, weights, inputs)

    return known


def block_plan(blocks: Sequence[int]) -> Iterator[tuple[str, int, int]]:
    """Name, stage and stride of every residual block, in their order.

    All stages but the first halve the image, by their first block.

    Args:
      blocks: in every stage.
    """
    for stage, number in enumerate(blocks):
        for block in range(number):
            stride = 2 if stage > 0 and block == 0 else 1
            yield f"stage{stage}_block{block}", stage, stride


def kaiming_fan_in(key, shape, dtype=jnp.float32) -> jax.Array:
    """Normal with variance two over the inputs of an output; kernels end in (in, out).

    Not truncated, unlike the initialiser of that name in Flax and JAX.
    """
    fan_in = math.prod(shape[:-1])
    return math.sqrt(2 / fan_in) * _normal(key, shape, dtype)


def kaiming_fan_out(key, shape, dtype=jnp.float32) -> jax.Array:
    """Normal with variance two over the outputs of an input, likewise."""
    fan_out = math.prod(shape[:-2]) * shape[-1]
    return math.sqrt(2 / fan_out) * _normal(key, shape, dtype)


def normal(std: float) -> Initializer:
    """Normal with mean zero and that standard deviation, not truncated."""

    def init(key, shape, dtype=jnp.float32):
        return std * _normal(key, shape, dtype)

    return init


def uniform(bound: float) -> Initializer:
    """Uniform between ``-bound`` and ``bound``."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def _normal(key, shape, dtype):
    # Drawn as a vector: the same numbers, for a fifth of the time XLA needs to compile
    # a draw with the shape of a kernel.
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
    """A convolution without bias, by a square kernel of odd ``size``."""
    # As much padding on every side, as PyTorch has; "SAME" would shift strided ones.
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

    A training batch is normalised by its biased variance, and moves the running
    statistics by a tenth, the variance towards the unbiased one. Flax's layer keeps the
    biased one, and at bfloat16 it rounds weights and statistics before use. Here all
    arithmetic is in float32 or wider, and only the result is as narrow as the input.
    """

    def __init__(self, channels: int):
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(channels, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(channels, jnp.float32))
        self.use_running_average = False  # by train() and eval() of the whole network

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        if self.use_running_average:
            mean, var = self.mean[...], self.var[...]
        else:
            mean, var = self._of_batch(wide)
        # One number a channel, and broadcast only then: other orders are compiled
        # differently with a backward pass and without, and are not recognised as one.
        factor = jax.lax.rsqrt(var + 1e-5) * self.scale[...]
        shift = self.bias[...] - mean * factor
        # Not (x - mean) * factor: the backward pass would need x - mean beside x, which
        # the variance needs anyway, and a third of what a ResNet holds would be that.
        factor, shift = (jnp.expand_dims(array, (0, 1, 2)) for array in (factor, shift))
        return (wide * factor + shift).astype(x.dtype)

    def _of_batch(self, x):
        """Mean and variance of the batch, which the running ones follow."""
        axes = (0, 1, 2)
        mean = jnp.mean(x, axes)
        # Both from one pass over x; rounding may leave a little less than nothing.
        var = jnp.maximum(jnp.mean(jnp.square(x), axes) - jnp.square(mean), 0.0)
        size = x.size // x.shape[-1]
        if size == 1:
            raise UserError(
                "BatchNorm needs more than one value of every channel, and a batch of "
                "one image leaves one: raise --batch-size, or the size of the images."
            )
        unbiased = var * (size / max(size - 1, 1))
        for running, of_batch in ((self.mean, mean), (self.var, unbiased)):
            moved = 0.9 * running[...] + 0.1 * of_batch
            # Not by [...]: on the way Flax asks a traced array for its sharding, and
            # the answer, an error that is thrown away, takes JAX long to word.
            running.set_value(moved.astype(running[...].dtype))
        return mean, var


def relu_of_sum(x: jax.Array, y: jax.Array) -> jax.Array:
    """The rectified sum with which a residual block ends."""
    total = x + y
    # A choice and not max(total, 0), which is the same. XLA takes that for cheap and
    # computes it anew wherever it is used, and so, through the shortcuts, all blocks
    # before it: on CPU the gradients of kernels spent most of a step on that.
    return jnp.where(total <= 0, 0, total)


def mean_over_image(x: jax.Array) -> jax.Array:
    """From ``(batch, height, width, channels)`` to ``(batch, channels)``, float32."""
    return jnp.mean(x, axis=(1, 2), dtype=jnp.promote_types(x.dtype, jnp.float32))
