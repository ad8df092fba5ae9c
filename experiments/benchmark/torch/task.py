"""A workload in PyTorch: the network, its optimizer and a batch, on JAX's device."""

from typing import NamedTuple

import jax
import numpy as np
import torch
from torch import nn

from experiments.benchmark.torch import resnet_imagenet
from experiments.benchmark.torch.resnet import ResNet, images_to_torch
from experiments.benchmark.torch.vit import VisionTransformer
from experiments.benchmark.workload import Method, Workload
from experiments.errors import UserError
from experiments.models import bottleneck, vision_sizes


class TorchTask(NamedTuple):
    """The inputs of a method's step; images have channels first."""

    workload: Workload
    method: Method
    module: nn.Module
    optimizer: torch.optim.Optimizer
    images: torch.Tensor
    labels: torch.Tensor

    @property
    def held_bytes(self) -> int:
        """Bytes that are held before and after a step."""
        tensors = [*self.module.state_dict().values(), self.images, self.labels]
        tensors += [p.grad for p in self.module.parameters() if p.grad is not None]
        for state in self.optimizer.state.values():
            tensors += [x for x in state.values() if isinstance(x, torch.Tensor)]
        storages = [tensor.untyped_storage() for tensor in tensors]
        return sum({s.data_ptr(): s.nbytes() for s in storages}.values())


def torch_task(workload: Workload, method: Method) -> TorchTask:
    """Returns the initial network, SGD with momentum and weight decay, and a batch."""
    torch.manual_seed(0)
    device, config = torch_device(), workload.config(method)
    module = _module(workload)
    if workload.dtype == "bfloat16":
        _narrow(module, device)
    module.to(device)
    optimizer = torch.optim.SGD(
        [p for p in module.parameters() if p.requires_grad],
        config.learning_rate,
        config.momentum,
        weight_decay=config.weight_decay,
    )
    images, labels = workload.batch()
    images = images_to_torch(images).to(device)
    labels = torch.from_numpy(labels.astype(np.int64)).to(device)
    return TorchTask(workload, method, module, optimizer, images, labels)


def torch_device() -> torch.device:
    """Returns the device on which JAX computes.

    Raises:
      UserError: if PyTorch cannot use it.
    """
    if jax.default_backend() == "cpu":
        return torch.device("cpu")
    if jax.default_backend() == "gpu" and torch.cuda.is_available():
        return torch.device("cuda")
    raise UserError(
        f"JAX computes on {jax.devices()[0].device_kind}, but this PyTorch cannot: "
        "install a PyTorch build for that device, or pass --frameworks jax."
    )


def _module(workload: Workload) -> nn.Module:
    num_classes = workload.num_classes
    match workload.model:
        case "resnet50":
            return resnet_imagenet.ResNet(num_classes)
        case "resnet20" | "resnet32" | "resnet44" | "resnet56":
            depth = int(workload.model.removeprefix("resnet"))
            return ResNet(depth, num_classes)
    config = workload.config()
    sizes = vision_sizes(config, workload.channels)
    trained = {"vit_digits": "all", "vit_b16": "blocks"}
    return VisionTransformer(
        sizes,
        num_classes,
        trained.get(workload.model, "adaptformer"),
        bottleneck(num_classes, sizes.transformer.layers),
    )


def _narrow(module: nn.Module, device: torch.device) -> None:
    """Makes the module compute in bfloat16, and return float32."""
    forward = module.forward

    def narrow(images):
        with torch.autocast(device.type, torch.bfloat16):
            logits = forward(images)
        return logits.float()

    module.forward = narrow
