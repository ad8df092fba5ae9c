"""Construction of a configuration's network."""

from typing import Any

import jax.numpy as jnp

from experiments.config import Config
from experiments.errors import UserError
from experiments.models.clip.architecture import Transformer, Vision
from experiments.models.clip.classifier import tuned_clip, vision_transformer
from experiments.models.clip.files import Clip, open_clip
from experiments.models.clip.tuners import bottleneck
from experiments.models.functional import Model
from experiments.models.resnet import resnet_cifar, resnet_digits
from experiments.models.resnet_imagenet import resnet50, resnext50_32x4d

_CIFAR_DEPTHS = {"resnet20": 20, "resnet32": 32, "resnet44": 44, "resnet56": 56}
_IMAGENET = {"resnet50": resnet50, "resnext50": resnext50_32x4d}
_VIT_DIGITS = Transformer(width=64, layers=4, heads=4, hidden=128)


def make_model(config: Config, num_classes: int, channels: int) -> Model:
    """Makes the network that ``config`` names.

    Args:
      config: its ``model`` and the options of the network are used.
      num_classes: size of the output.
      channels: number of image channels.

    Raises:
      UserError: if the network does not take such images, or if its initial weights
        are missing.
    """
    name = config.model
    options = {"head": config.head, "dtype": jnp.dtype(config.precision)}
    options["scale"] = config.head_scale
    if name == "vit_digits":
        sizes = vision_sizes(config, channels)
        return vision_transformer(sizes, num_classes, **options)
    if name == "resnet_digits":
        return resnet_digits(num_classes, config.width, channels=channels, **options)
    if channels != 3:
        raise UserError(
            f"--model {name} needs images with 3 channels, got {channels}: choose "
            "--model resnet_digits."
        )
    if name == "clip":
        return _clip(config, num_classes, options)
    if name in _CIFAR_DEPTHS:
        return resnet_cifar(_CIFAR_DEPTHS[name], num_classes, **options)
    return _IMAGENET[name](num_classes, **options)


def vision_sizes(config: Config, channels: int) -> Vision:
    """Returns the sizes of ``config``'s vision transformer."""
    if config.model == "clip":
        return open_clip(config.weights).architecture.vision
    return Vision(_VIT_DIGITS, config.network_size, 2, channels)


def fitting_clip(config: Config) -> Clip:
    """Opens the CLIP model of ``config``, and checks its image size.

    Raises:
      UserError: if the size differs from ``config``'s, or there is no such model.
    """
    clip = open_clip(config.weights)
    size = clip.architecture.vision.image_size
    if size != config.network_size:
        flag = "--input-size" if config.in_memory else "--image-size"
        raise UserError(
            f"CLIP of --weights {config.weights} needs images of {size} pixels, got "
            f"{config.network_size}: set {flag} {size}."
        )
    return clip


def _clip(config: Config, num_classes: int, options: dict[str, Any]) -> Model:
    clip = fitting_clip(config)
    sizes, weights = clip.architecture.vision, clip.vision()
    return tuned_clip(
        sizes,
        num_classes,
        tuners=config.tuners,
        bottleneck=bottleneck(num_classes, sizes.transformer.layers),
        weights=weights and weights["vision"],
        **options,
    )
