"""The CIFAR ResNets in PyTorch, and the way of their weights to JAX."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResNet(nn.Module):
    """The network of ``experiments.models.resnet_cifar``, with modules named alike."""

    def __init__(self, depth: int, num_classes: int):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self._names = []
        channels = 16
        for stage, out in enumerate((16, 32, 64)):
            for block in range((depth - 2) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                self._names.append(f"stage{stage}_block{block}")
                self.add_module(self._names[-1], _Block(channels, out, stride))
                channels = out
        self.head = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn(self.conv(images)))
        for name in self._names:
            x = self.get_submodule(name)(x)
        return self.head(x.mean(dim=(2, 3)))


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(
            in_channels, out_channels, 3, stride=stride, padding=1, bias=False
        )
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.missing = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        side = self.missing // 2
        x = x[:, :, :: self.stride, :: self.stride]
        x = F.pad(x, (0, 0, 0, 0, side, self.missing - side))
        return F.relu(y + x)


def to_jax(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and BatchNorm statistics, as ``experiments.models`` nests them.

    Kernels go from ``(out, in, height, width)`` to ``(height, width, in, out)``.
    """
    params: dict[str, Any] = {}
    batch_stats: dict[str, Any] = {}
    for full_name, tensor in module.state_dict().items():
        *path, name = full_name.split(".")
        array = tensor.detach().cpu().numpy().copy()
        match name, array.ndim:
            case "weight", 4:
                _put(params, path, "kernel", array.transpose(2, 3, 1, 0))
            case "weight", 2:
                _put(params, path, "kernel", array.T)
            case "weight", 1:
                _put(params, path, "scale", array)
            case "bias", 1:
                _put(params, path, "bias", array)
            case "running_mean", 1:
                _put(batch_stats, path, "mean", array)
            case "running_var", 1:
                _put(batch_stats, path, "var", array)
    return params, batch_stats


def images_to_torch(images: np.ndarray) -> Tensor:
    """From ``(batch, height, width, channels)`` to PyTorch's channels first."""
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def _put(tree: dict[str, Any], path: list[str], name: str, array: np.ndarray) -> None:
    for part in path:
        tree = tree.setdefault(part, {})
    tree[name] = array
