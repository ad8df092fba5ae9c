"""Residual networks for photographs: ResNet-50 and ResNeXt-50.

The form is torchvision's, from which most published weights come. A 7x7 convolution
and max-pooling divide the image's sides by 4. Four stages of 3, 4, 6 and 3 bottleneck
blocks follow; all but the first halve the image. Then come global average pooling and
the last layer. A block's 3x3 convolution has the stride ("version 1.5").
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
    kaiming_fan_out,
    mean_over_image,
    relu_of_sum,
    uniform,
)

_BLOCKS = (3, 4, 6, 3)
_EXPANSION = 4


def resnet50(
    num_classes: int,
    *,
    head: Head = "linear",
    scale: float = 1.0,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """Returns ResNet-50, for images such as 224x224x3.

    Parameters: 25,557,032 for 1000 classes, 40,190,990 for 8142.

    Args:
      num_classes: size of the output.
      head: the last layer, linear or cosine.
      scale: factor of the cosines.
      dtype: dtype of the computation, float32 or bfloat16.

    References:
      He et al., `Deep Residual Learning for Image Recognition
      <https://arxiv.org/abs/1512.03385>`_, CVPR 2016, section 4.1
    """
    return functional(partial(_ResNet, 1, 64, num_classes, head, scale, dtype))


def resnext50_32x4d(
    num_classes: int,
    *,
    head: Head = "linear",
    scale: float = 1.0,
    dtype: DTypeLike = jnp.float32,
) -> Model:
    """Returns ResNeXt-50 with 32 groups of 4 channels.

    Parameters: 25,028,904 for 1000 classes.

    Args:
      num_classes: size of the output.
      head: the last layer, linear or cosine.
      scale: factor of the cosines.
      dtype: dtype of the computation, float32 or bfloat16.

    References:
      Xie et al., `Aggregated Residual Transformations for Deep Neural Networks
      <https://arxiv.org/abs/1611.05431>`_, CVPR 2017
    """
    return functional(partial(_ResNet, 32, 4, num_classes, head, scale, dtype))


class _ResNet(nnx.Module):
    """Four stages of bottlenecks; ``group_width`` is that of the first stage."""

    def __init__(
        self,
        groups: int,
        group_width: int,
        num_classes: int,
        head: Head,
        scale: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.conv = conv(3, 64, 7, 2, rngs, init=kaiming_fan_out, dtype=dtype)
        self.bn = BatchNorm(64)
        self._names = []
        channels = 64
        for name, stage, stride in block_plan(_BLOCKS):
            inner = groups * group_width * 2**stage
            out = 64 * 2**stage * _EXPANSION
            module = _Bottleneck(channels, inner, out, stride, groups, dtype, rngs)
            setattr(self, name, module)
            self._names.append(name)
            channels = out
        init = uniform(channels**-0.5)
        self.head = make_head(
            head, channels, num_classes, rngs, init=init, scale=scale, dtype=dtype
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        x = nnx.relu(self.bn(self.conv(images)))
        x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for name in self._names:
            x = getattr(self, name)(x)
        return self.head(mean_over_image(x))


class _Bottleneck(nnx.Module):
    """Convolutions of 1x1, 3x3 in groups, and 1x1, with a shortcut.

    The shortcut has a convolution where the number of channels changes.
    """

    def __init__(
        self,
        in_channels: int,
        inner: int,
        out_channels: int,
        stride: int,
        groups: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        make_conv = partial(conv, rngs=rngs, init=kaiming_fan_out, dtype=dtype)
        self.conv1 = make_conv(in_channels, inner, 1, 1)
        self.bn1 = BatchNorm(inner)
        self.conv2 = make_conv(inner, inner, 3, stride, groups=groups)
        self.bn2 = BatchNorm(inner)
        self.conv3 = make_conv(inner, out_channels, 1, 1)
        self.bn3 = BatchNorm(out_channels)
        self._projects = in_channels != out_channels
        if self._projects:
            self.shortcut_conv = make_conv(in_channels, out_channels, 1, stride)
            self.shortcut_bn = BatchNorm(out_channels)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = nnx.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self._projects:
            x = self.shortcut_bn(self.shortcut_conv(x))
        return relu_of_sum(y, x)
