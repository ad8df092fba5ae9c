"""Pretrained ResNet weights in files, from which a network can start."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.config import Network
from experiments.errors import UserError
from experiments.models.convert import from_pytorch, head_shapes, is_of_head
from experiments.models.functional import Model
from experiments.models.weight_files import open_safetensors, shapes_in, weight_files

_OPTION = "--init-weights"
_FROM_OTHERS = (
    "save a network's state_dict() in PyTorch with "
    "safetensors.torch.save_file(STATE_DICT, FILE)"
)
# From other array names to those of torchvision, applied in this order.
_RENAMES: list[tuple[str, str | Callable[[re.Match], str]]] = [
    (r"^module\.", ""),
    (r"^(resnet\.)?embedder\.embedder\.convolution", "conv1"),
    (r"^(resnet\.)?embedder\.embedder\.normalization", "bn1"),
    (
        r"^(resnet\.)?encoder\.stages\.(\d+)\.layers\.",
        lambda found: f"layer{int(found[2]) + 1}.",
    ),
    (r"\.layer\.(\d)\.convolution", lambda found: f".conv{int(found[1]) + 1}"),
    (r"\.layer\.(\d)\.normalization", lambda found: f".bn{int(found[1]) + 1}"),
    (r"\.shortcut\.convolution", ".downsample.0"),
    (r"\.shortcut\.normalization", ".downsample.1"),
    (r"^(classifier\.1|linear)\.", "fc."),
]
# Keys: shapes of two convolutions, and number of blocks in the third stage.
_NETWORKS: dict[Any, Network] = {
    ((64, 3, 7, 7), (64, 64, 3, 3), 6): "resnet50",
    ((64, 3, 7, 7), (128, 4, 3, 3), 6): "resnext50",
    ((16, 3, 3, 3), (16, 16, 3, 3), 3): "resnet20",
    ((16, 3, 3, 3), (16, 16, 3, 3), 5): "resnet32",
    ((16, 3, 3, 3), (16, 16, 3, 3), 7): "resnet44",
    ((16, 3, 3, 3), (16, 16, 3, 3), 9): "resnet56",
}


class Pretrained(NamedTuple):
    """Weights on disk, by the names of torchvision.

    Attributes:
      where: path of the weights, as the user gave it.
      shapes: shapes of the arrays.
      read: reads the arrays.
    """

    where: str
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[], dict[str, np.ndarray]]


def open_pretrained(where: str) -> Pretrained:
    """Opens the weights of ``--init-weights``, without reading them.

    Args:
      where: a safetensors file with the names of torchvision, timm or Hugging Face, a
        folder with one, or a name on the hub, such as ``timm/resnet50.a1_in1k``.

    Raises:
      UserError: if there are no weights, or they cannot be fetched.
    """
    _, files = weight_files(where, _OPTION, _FROM_OTHERS)

    def read():
        return {
            _renamed(name): np.asarray(opened.get_tensor(name))
            for opened in map(open_safetensors, files)
            for name in opened.keys()
        }

    shapes = {_renamed(name): shape for name, shape in shapes_in(files).items()}
    return Pretrained(where, shapes, read)


def network_of(pretrained: Pretrained) -> Network:
    """Returns the network to which the weights belong.

    Raises:
      UserError: if that network cannot start from weights.
    """
    shapes = pretrained.shapes
    blocks = {name.split(".")[1] for name in shapes if name.startswith("layer3.")}
    seen = shapes.get("conv1.weight"), shapes.get("layer1.0.conv2.weight"), len(blocks)
    if seen in _NETWORKS:
        return _NETWORKS[seen]
    raise UserError(
        f"{_OPTION} {pretrained.where} contains none of the networks that can start "
        "from weights: ResNet-50, ResNeXt-50 (32x4d), and the CIFAR ResNets of depth "
        f"20 to 56. Its first arrays are {', '.join(sorted(shapes)[:3])}."
    )


def has_head(pretrained: Pretrained, model: Model) -> bool:
    """Returns whether the last layer on disk fits the network's."""
    head = {n: shape for n, shape in pretrained.shapes.items() if is_of_head(n)}
    return head == head_shapes(model)


def pretrained_network(
    pretrained: Pretrained, model: Model
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads parameters and statistics; a last layer that does not fit is left out.

    Args:
      pretrained: the weights.
      model: the network that starts from them.

    Returns:
      ``(params, batch_stats)``, nested as by ``model.init``, float32.

    Raises:
      UserError: if the weights are of another network.
    """
    head = has_head(pretrained, model)
    try:
        network = from_pytorch(pretrained.read(), model, with_head=head)
    except UserError as error:
        raise UserError(f"{_OPTION} {pretrained.where}: {error}") from None
    return jax.tree.map(lambda array: array.astype(np.float32), network)


def _renamed(name: str) -> str:
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name
