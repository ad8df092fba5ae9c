"""The nearest recipe for the user's own data, by class counts and image size."""

from experiments.config import (
    IN_MEMORY_SIZE,
    OF_PHOTOGRAPHS,
    Config,
    Loss,
    Method,
    Network,
)
from experiments.configs import get_config

# Up to this many images, training is as long as for CIFAR-LT; with more it is shorter,
# with at least this many epochs.
_LONG_UP_TO, _SHORTEST = 200_000, 90
_LARGEST_SIZE = 224
# Trained weights need few epochs and a tenth of the learning rate, as in OLTR's
# training on Places-LT (Liu et al., CVPR 2019).
_TUNING, _TUNING_RATE = 30, 0.1
_CIFAR_SIZE = 32
# Batches are halved until an epoch has this many steps, down to the smallest batch.
_STEPS, _SMALLEST_BATCH = 16, 8


def own_config(
    class_counts: list[int],
    size: int,
    method: Method,
    loss: Loss | None,
    *,
    clip: bool,
    image_size: int | None,
    pretrained: Network | None = None,
) -> Config:
    """Returns a recipe's configuration with sizes that fit the user's own data.

    Small images are trained as CIFAR, at their own size, with a ResNet-32; larger
    images as ImageNet, with a ResNet-50. With few images, batches are smaller and the
    learning rate is scaled in proportion; with many images, there are fewer epochs.
    Trained weights are tuned for 30 epochs, at the image size of their network. CLIP
    uses bicubic resizing, as in its own training.

    Args:
      class_counts: training images of each class.
      size: median of the shorter sides of the images, in pixels.
      method: training method.
      loss: the criterion; ``None`` for the recipe's.
      clip: whether CLIP is tuned.
      image_size: side in pixels; ``None`` to choose it.
      pretrained: ResNet of the weights from which training starts, if there are any.
    """
    images, classes = sum(class_counts), len(class_counts)
    if pretrained:
        usual = _LARGEST_SIZE if pretrained in OF_PHOTOGRAPHS else _CIFAR_SIZE
        image_size = image_size or usual
    small = (image_size or size) <= IN_MEMORY_SIZE
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
        side = config.image_size  # that of the weights
    else:
        side = image_size or max(size if small else _next_32(size), 8)
    return config.replace(
        image_size=side,
        batch_size=batch_size,
        learning_rate=config.learning_rate * batch_size / usual,
        tail_threshold=_tail(class_counts),
        interpolation="bicubic" if clip else config.interpolation,
    )


def _next_32(size: int) -> int:
    return min(-(-size // 32) * 32, _LARGEST_SIZE)


def _tail(class_counts: list[int]) -> int:
    """Returns the tail threshold: 20, or the median count if no class has fewer."""
    few = 20
    if min(class_counts) < few:
        return few
    return sorted(class_counts)[len(class_counts) // 2]


def flags_of(config: Config) -> str:
    """Returns the most useful options of a configuration, as flags."""
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
