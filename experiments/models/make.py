"""From an experiment to its network."""

import jax.numpy as jnp

from experiments.config import Config
from experiments.errors import UserError
from experiments.models.functional import Model
from experiments.models.resnet import resnet_cifar, resnet_digits
from experiments.models.resnet_imagenet import resnet50, resnext50_32x4d

_CIFAR_DEPTHS = {"resnet20": 20, "resnet32": 32, "resnet44": 44, "resnet56": 56}
_IMAGENET = {"resnet50": resnet50, "resnext50": resnext50_32x4d}


def make_model(config: Config, num_classes: int, channels: int) -> Model:
    """The network that ``config`` names.

    Args:
      config: its ``model``, ``head``, ``width`` and ``precision`` matter.
      num_classes: size of the output.
      channels: of the images.

    Raises:
      UserError: if the network is not made for so many channels.
    """
    name = config.model
    options = {"head": config.head, "dtype": jnp.dtype(config.precision)}
    if name == "resnet_digits":
        return resnet_digits(num_classes, config.width, channels=channels, **options)
    if channels != 3:
        raise UserError(
            f"--model {name} takes images with 3 channels, and these have {channels}: "
            "choose --model resnet_digits."
        )
    if name in _CIFAR_DEPTHS:
        return resnet_cifar(_CIFAR_DEPTHS[name], num_classes, **options)
    return _IMAGENET[name](num_classes, **options)
