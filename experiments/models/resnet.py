r"""Residual networks for small images.

The CIFAR form of He et al.: a 3x3 convolution, three stages of basic blocks with
widths :math:`w, 2w, 4w`, global average pooling, and the last layer. The second and
third stages halve the image. Shortcuts have no parameters (option A): where the image
is halved, they take every second pixel and pad channels with zeros on both sides.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from experiments.models.functional import Model, functional
from experiments.models.heads import Head, make_head
from experiments.models.layers import (
    BatchNorm,
    block_plan,
    conv,
    kaiming_fan_in,
    mean_over_image,
    relu_of_sum,
)


def resnet_cifar(
    depth: int,
    num_classes: int,
    *,
    head: Head = "linear",
    scale: float = 1.0,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """Returns a CIFAR ResNet: depth 20, 32, 44, 56 or 110, images of 32x32x3.

    With depth 32 it has 464,154 parameters for 10 classes and 470,004 for 100; with the
    cosine head 464,144 and 469,904.

    Args:
      depth: number of layers with weights, 6 k + 2.
      num_classes: size of the output.
      head: the last layer, linear or cosine.
      scale: factor of the cosines.
      dtype: dtype of the computation, float32 or bfloat16.

    References:
      He et al., `Deep Residual Learning for Image Recognition
      <https://arxiv.org/abs/1512.03385>`_, CVPR 2016, section 4.2
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ValueError(f"depth must be 6 k + 2 with k >= 1, got {depth}.")
    module = partial(_ResNet, blocks, 16, 3, num_classes, head, scale, dtype)
    return functional(module)


def resnet_digits(
    num_classes: int,
    width: int,
    *,
    channels: int = 1,
    head: Head = "linear",
    scale: float = 1.0,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """Returns a CIFAR ResNet with one block per stage, for images of 8x8.

    Args:
      num_classes: size of the output.
      width: number of channels of the first stage.
      channels: number of image channels.
      head: the last layer, linear or cosine.
      scale: factor of the cosines.
      dtype: dtype of the computation, float32 or bfloat16.
    """
    module = partial(_ResNet, 1, width, channels, num_classes, head, scale, dtype)
    return functional(module)


class _ResNet(nnx.Module):
    """Three stages of ``blocks`` basic blocks; parameter names are strings."""

    def __init__(
        self,
        blocks: int,
        width: int,
        in_channels: int,
        num_classes: int,
        head: Head,
        scale: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.conv = _conv3x3(in_channels, width, 1, dtype, rngs)
        self.bn = BatchNorm(width)
        self._names = []
        channels = width
        for name, stage, stride in block_plan([blocks] * 3):
            out = width * 2**stage
            setattr(self, name, _Block(channels, out, stride, dtype, rngs))
            self._names.append(name)
            channels = out
        self.head = make_head(
            head,
            channels,
            num_classes,
            rngs,
            init=kaiming_fan_in,
            scale=scale,
            dtype=dtype,
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        x = nnx.relu(self.bn(self.conv(images)))
        for name in self._names:
            x = getattr(self, name)(x)
        return self.head(mean_over_image(x))


class _Block(nnx.Module):
    """Two 3x3 convolutions with a shortcut without parameters."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.conv1 = _conv3x3(in_channels, out_channels, stride, dtype, rngs)
        self.bn1 = BatchNorm(out_channels)
        self.conv2 = _conv3x3(out_channels, out_channels, 1, dtype, rngs)
        self.bn2 = BatchNorm(out_channels)
        self._stride = stride
        self._missing = out_channels - in_channels

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return relu_of_sum(y, self._shortcut(x))

    def _shortcut(self, x):
        x = x[:, :: self._stride, :: self._stride]
        side = self._missing // 2
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (side, self._missing - side)))


def _conv3x3(in_channels, out_channels, stride, dtype, rngs):
    return conv(
        in_channels, out_channels, 3, stride, rngs, init=kaiming_fan_in, dtype=dtype
    )
