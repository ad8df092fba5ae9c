"""The CIFAR ResNets in PyTorch, and the conversion of weights and images."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from experiments.models import from_pytorch, resnet_cifar


class ResNet(nn.Module):
    """The network of ``experiments.models.resnet_cifar``, with torchvision's names."""

    def __init__(self, depth: int, num_classes: int, head: str = "linear"):
        super().__init__()
        self.depth, self.num_classes, self.head = depth, num_classes, head
        blocks = (depth - 2) // 6
        self.conv1 = _conv3x3(3, 16, 1)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(blocks, 16, 16, 1)
        self.layer2 = _stage(blocks, 16, 32, 2)
        self.layer3 = _stage(blocks, 32, 64, 2)
        self.linear = make_head(head, 64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean(dim=(2, 3)))


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = _conv3x3(in_channels, out_channels, stride)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = _conv3x3(out_channels, out_channels, 1)
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


class CosineHead(nn.Module):
    """Cosine between the features and a column for every class."""

    def __init__(self, features: int, num_classes: int):
        super().__init__()
        columns = torch.empty(features, num_classes).uniform_(-1, 1)
        self.weight = nn.Parameter(F.normalize(columns, dim=0))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) @ F.normalize(self.weight, dim=0)


def make_head(head: str, features: int, num_classes: int) -> nn.Module:
    """Returns the last layer: ``"linear"`` or ``"cosine"``."""
    return {"linear": nn.Linear, "cosine": CosineHead}[head](features, num_classes)


def to_jax(module: ResNet) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns parameters and BatchNorm statistics, nested as the JAX model's."""
    model = resnet_cifar(module.depth, module.num_classes, head=module.head)
    return from_pytorch(numpy_state(module), model)


def numpy_state(module: nn.Module) -> dict[str, np.ndarray]:
    """Returns the arrays of a module by name; on the CPU they are views."""
    return {
        name: tensor.detach().cpu().numpy()
        for name, tensor in module.state_dict().items()
    }


def images_to_torch(images: np.ndarray) -> Tensor:
    """Converts ``(batch, height, width, channels)`` to channels first."""
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy())


def _stage(blocks, in_channels, out_channels, stride):
    rest = [_Block(out_channels, out_channels, 1) for _ in range(blocks - 1)]
    return nn.Sequential(_Block(in_channels, out_channels, stride), *rest)


def _conv3x3(in_channels, out_channels, stride):
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
