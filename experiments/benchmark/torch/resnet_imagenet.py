"""ResNet-50 and ResNeXt-50 in PyTorch, with the names of torchvision."""

from torch import Tensor, nn
from torch.nn import functional as F

from experiments.benchmark.torch.resnet import make_head


class ResNet(nn.Module):
    """The network of ``experiments.models.resnet50`` or ``resnext50_32x4d``.

    ResNet-50 has one group of 64 channels, ResNeXt-50 has 32 groups of 4.
    """

    def __init__(
        self,
        num_classes: int,
        groups: int = 1,
        group_width: int = 64,
        head: str = "linear",
    ):
        super().__init__()
        inner = groups * group_width
        self.conv1 = _conv(3, 64, 7, 2)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(3, 64, inner, 256, 1, groups)
        self.layer2 = _stage(4, 256, 2 * inner, 512, 2, groups)
        self.layer3 = _stage(6, 512, 4 * inner, 1024, 2, groups)
        self.layer4 = _stage(3, 1024, 8 * inner, 2048, 2, groups)
        self.fc = make_head(head, 2048, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean(dim=(2, 3)))


class _Bottleneck(nn.Module):
    def __init__(
        self,
        in_channels: int,
        inner: int,
        out_channels: int,
        stride: int,
        groups: int,
    ):
        super().__init__()
        self.conv1 = _conv(in_channels, inner, 1, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = _conv(inner, inner, 3, stride, groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = _conv(inner, out_channels, 1, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = nn.Sequential()
        if in_channels != out_channels:
            self.downsample.append(_conv(in_channels, out_channels, 1, stride))
            self.downsample.append(nn.BatchNorm2d(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + self.downsample(x))


def _stage(blocks, in_channels, inner, out_channels, stride, groups):
    rest = [
        _Bottleneck(out_channels, inner, out_channels, 1, groups)
        for _ in range(blocks - 1)
    ]
    first = _Bottleneck(in_channels, inner, out_channels, stride, groups)
    return nn.Sequential(first, *rest)


def _conv(in_channels, out_channels, size, stride, groups=1):
    return nn.Conv2d(
        in_channels,
        out_channels,
        size,
        stride=stride,
        padding=size // 2,
        groups=groups,
        bias=False,
    )
