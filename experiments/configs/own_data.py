"""The nearest recipe for data of the user's own, from what they look like."""

from typing import NamedTuple

from experiments.config import IN_MEMORY_SIZE, Config, Loss, Method, Network
from experiments.configs import get_config

# Training is as long as that of CIFAR-LT up to so many images, and shorter with more.
_LONG_UP_TO, _SHORTEST = 200_000, 90
_LARGEST_SIZE = 224
# Trained weights want little more, as in OLTR's training on Places-LT (Liu et al., CVPR
# 2019): so many epochs, with a tenth of the learning rate.
_TUNING, _TUNING_RATE = 30, 0.1
_CIFAR_SIZE = 32
# Batches are no larger than leaves so many steps in an epoch.
_STEPS, _SMALLEST_BATCH = 16, 8


class Look(NamedTuple):
    """What is seen of data before a recipe is chosen.

    Attributes:
      class_counts: training images of each class.
      size: shorter side of the images, in pixels, the median.
    """

    class_counts: list[int]
    size: int


def own_config(
    look: Look,
    method: Method,
    loss: Loss | None,
    *,
    clip: bool,
    image_size: int | None,
    pretrained: Network | None = None,
) -> Config:
    """The configuration for own data: a recipe's, with sizes that fit the data.

    Small images are trained on as CIFAR's are, at their own size, with a ResNet-32;
    larger ones as ImageNet's, with a ResNet-50. Few images make smaller batches, with
    a learning rate in proportion, and many images fewer epochs. Trained weights are
    tuned for 30 epochs, at the size of images that their network is made for. CLIP sees
    images resized as in its own training.

    Args:
      look: what the data look like.
      method: how the gradient is made.
      loss: the criterion; ``None`` for the recipe's.
      clip: whether CLIP is tuned.
      image_size: side in pixels, if it is not to be that of the data.
      pretrained: the ResNet whose weights training starts from, if there are some.
    """
    images, classes = sum(look.class_counts), len(look.class_counts)
    if pretrained:
        of_photographs = pretrained in ("resnet50", "resnext50")
        image_size = image_size or (_LARGEST_SIZE if of_photographs else _CIFAR_SIZE)
    small = (image_size or look.size) <= IN_MEMORY_SIZE
    if small:
        name = "cifar10_lt" if classes <= 20 else "cifar100_lt"
    else:
        name = "imagenet_lt" if classes <= 1000 else "inaturalist18"
    if clip:
        name = "clip_inaturalist18" if name == "inaturalist18" else f"clip_{name}"
    config = get_config(name, method, loss)

    batch_size = usual = config.batch_size
    while batch_size > _SMALLEST_BATCH and images < _STEPS * batch_size:
        batch_size //= 2
    if pretrained:
        config = config.with_epochs(_TUNING).replace(
            model=pretrained, learning_rate=config.learning_rate * _TUNING_RATE
        )
    elif not clip and images > _LONG_UP_TO:
        epochs = round(config.epochs * _LONG_UP_TO / images)
        config = config.with_epochs(max(epochs, _SHORTEST))
    if clip and not small:
        size = config.image_size  # that of the weights
    else:
        size = image_size or max(look.size if small else _next_32(look.size), 8)
    return config.replace(
        image_size=size,
        batch_size=batch_size,
        learning_rate=config.learning_rate * batch_size / usual,
        tail_threshold=_tail(look.class_counts),
        interpolation="bicubic" if clip else config.interpolation,
    )


def _next_32(size: int) -> int:
    return min(-(-size // 32) * 32, _LARGEST_SIZE)


def _tail(class_counts: list[int]) -> int:
    """Of ImbSAM and SSE-SAM: few-shot classes, or where there are none, half of all."""
    few = 20
    if min(class_counts) < few:
        return few
    return sorted(class_counts)[len(class_counts) // 2]


def flags_of(config: Config) -> str:
    """What is most worth changing in a configuration, as it would be written."""
    names = ["model", "image_size", "augment", "epochs", "batch_size", "learning_rate"]
    names += ["weight_decay", "loss"]
    if config.model == "clip":
        names += ["interpolation"]
    if config.method != "sgd":
        names += ["rho_values" if config.rho_schedule == "step" else "rho"]
    names += {
        "imbsam": ["tail_threshold"],
        "sse_sam": ["head_rho", "tail_threshold", "switch_epoch"],
        "cc_sam": ["alpha"],
        "focal_sam": ["gamma", "lam"],
    }.get(config.method, [])
    return " ".join(f"--{n.replace('_', '-')} {_written(config, n)}" for n in names)


def _written(config: Config, name: str) -> str:
    value = getattr(config, name)
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
