r"""Residual networks for small images.

The CIFAR form of He et al.: a 3x3 convolution, three stages of basic blocks with
widths :math:`w, 2w, 4w`, of which the second and the third halve the image, the mean
over what is left, and a linear layer. Shortcuts have no parameters (option A): where
the image is halved they take every second pixel, and pad channels with zeros on both
sides.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.models.functional import Model, functional

# Normal with variance 2 / fan_in, for convolutions and the last layer alike.
_kaiming_normal = jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def resnet_cifar(depth: int, num_classes: int) -> Model:
    """The CIFAR ResNets: depth 20, 32, 44, 56 or 110, for images of 32x32x3.

    With depth 32 there are 464,154 parameters for 10 classes and 470,004 for 100.

    Args:
      depth: layers with weights, 6 k + 2.
      num_classes: size of the output.

    References:
      He et al., `Deep Residual Learning for Image Recognition
      <https://arxiv.org/abs/1512.03385>`_, CVPR 2016, section 4.2
    """
    blocks, rest = divmod(depth - 2, 6)
    if rest or blocks < 1:
        raise ValueError(f"depth must be 6 k + 2 with k >= 1, got {depth}.")
    return functional(lambda rngs: _ResNet(blocks, 16, 3, num_classes, rngs))


def resnet_digits(num_classes: int, width: int) -> Model:
    """The same with one block a stage, for images of 8x8x1.

    Args:
      num_classes: size of the output.
      width: channels of the first stage.
    """
    return functional(lambda rngs: _ResNet(1, width, 1, num_classes, rngs))


class _ResNet(nnx.Module):
    """Stages of ``blocks`` basic blocks; the names of the parameters are strings."""

    def __init__(
        self,
        blocks: int,
        width: int,
        in_channels: int,
        num_classes: int,
        rngs: nnx.Rngs,
    ):
        self.conv = _conv(in_channels, width, 1, rngs)
        self.bn = _batch_norm(width, rngs)
        self._names = []
        channels = width
        for stage in range(3):
            for block in range(blocks):
                out = width * 2**stage
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage}_block{block}"
                setattr(self, name, _Block(channels, out, stride, rngs))
                self._names.append(name)
                channels = out
        self.head = nnx.Linear(
            channels,
            num_classes,
            kernel_init=_kaiming_normal,
            bias_init=_uniform(channels**-0.5),
            rngs=rngs,
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        x = nnx.relu(self.bn(self.conv(images)))
        for name in self._names:
            x = getattr(self, name)(x)
        return self.head(jnp.mean(x, axis=(1, 2)))


class _Block(nnx.Module):
    """Two 3x3 convolutions around a shortcut without parameters."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, rngs: nnx.Rngs
    ):
        self.conv1 = _conv(in_channels, out_channels, stride, rngs)
        self.bn1 = _batch_norm(out_channels, rngs)
        self.conv2 = _conv(out_channels, out_channels, 1, rngs)
        self.bn2 = _batch_norm(out_channels, rngs)
        self._stride = stride
        self._missing = out_channels - in_channels

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return nnx.relu(y + self._shortcut(x))

    def _shortcut(self, x):
        x = x[:, :: self._stride, :: self._stride]
        side = self._missing // 2
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (side, self._missing - side)))


def _conv(in_channels, out_channels, stride, rngs):
    # Padding by one on every side, as PyTorch does; "SAME" would shift strided ones.
    return nnx.Conv(
        in_channels,
        out_channels,
        (3, 3),
        strides=stride,
        padding=1,
        use_bias=False,
        kernel_init=_kaiming_normal,
        rngs=rngs,
    )


def _batch_norm(channels, rngs):
    return nnx.BatchNorm(channels, momentum=0.9, epsilon=1e-5, rngs=rngs)


def _uniform(bound):
    def init(key, shape, dtype):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
