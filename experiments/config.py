"""Configuration of an experiment: one frozen dataclass that determines it."""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    get_args,
    get_type_hints,
)

import tyro

from experiments.errors import UserError

Method = Literal["sgd", "sam", "imbsam", "cc_sam", "sse_sam", "focal_sam"]
Approximation = Literal["none", "reuse_ascent", "looksam"]
Loss = Literal["ce", "focal", "ldam", "vs", "la"]
# Networks that also exist in PyTorch.
ResNet = Literal[
    "resnet20", "resnet32", "resnet44", "resnet56", "resnet50", "resnext50"
]
Network = Literal["resnet_digits", ResNet, "vit_digits", "clip"]
Tuner = Literal[
    "full",
    "bias",
    "layer_norm",
    "vpt_shallow",
    "vpt_deep",
    "adapter",
    "adaptformer",
    "lora",
    "lora_mlp",
    "ssf_attention",
    "ssf_mlp",
    "ssf_layer_norm",
]
Augmentation = Literal[
    "none", "affine", "crop_flip", "resized_crop", "resized_crop_jitter"
]
Interpolation = Literal["bilinear", "bicubic"]
METHODS: tuple[Method, ...] = get_args(Method)
# Names shown to users.
METHOD_NAMES: dict[Method, str] = {
    "sgd": "SGD",
    "sam": "SAM",
    "imbsam": "ImbSAM",
    "cc_sam": "CC-SAM",
    "sse_sam": "SSE-SAM",
    "focal_sam": "Focal-SAM",
}
RESNETS: tuple[ResNet, ...] = get_args(ResNet)
# Those that torchvision and timm have.
OF_PHOTOGRAPHS: tuple[ResNet, ...] = ("resnet50", "resnext50")
LOSSES: tuple[Loss, ...] = get_args(Loss)

_Mark = TypeVar("_Mark")

# Prefixes of ``--data`` for the user's own data; a path or name follows.
OWN_DATA = ("folder:", "lists:", "idx:", "tfds:")
# Up to this size images are held in memory; larger ones are streamed from disk.
IN_MEMORY_SIZE = 64


class Bound(NamedTuple):
    """A condition on a number: in words, and as a function that checks it."""

    words: str
    holds: Callable[[Any], bool]


class OnlyWith(NamedTuple):
    """A mark: the option has no effect unless option ``name`` is in ``values``."""

    name: str
    values: tuple[str, ...]


class Section(NamedTuple):
    """The help section of an option and of those after it."""

    title: str


def about(help_text: str):
    """Returns the help text of an option."""
    return tyro.conf.arg(help=help_text)


def at_least(low: float) -> Bound:
    """Returns the bound ``value >= low``."""
    return Bound(f"at least {low}", lambda value: value >= low)


def above(low: float) -> Bound:
    """Returns the bound ``value > low``."""
    return Bound(f"greater than {low}", lambda value: value > low)


def at_most(high: float) -> Bound:
    """Returns the bound ``value <= high``."""
    return Bound(f"at most {high}", lambda value: value <= high)


def below(high: float) -> Bound:
    """Returns the bound ``value < high``."""
    return Bound(f"less than {high}", lambda value: value < high)


def only_with(name: str, *values: str) -> OnlyWith:
    """Returns a mark: the option needs one of ``values`` in option ``name``."""
    return OnlyWith(name, values)


def sections_of(options: type) -> dict[str, str]:
    """Returns the section of every field of a dataclass, in order."""
    marks, found, title = dict(marks_of(options, Section)), {}, "run"
    for field in dataclasses.fields(options):
        title = marks[field.name].title if field.name in marks else title
        found[field.name] = title
    return found


def check_bounds(options: Any) -> None:
    """Raises a ``UserError`` if an option is out of its bounds or not finite.

    Args:
      options: a dataclass whose fields are ``Annotated`` with bounds; ``None`` is
        always valid.
    """
    for name, bound in marks_of(type(options), Bound):
        value = getattr(options, name)
        if value is not None and not bound.holds(value):
            raise UserError(f"{_flag(name)} must be {bound.words}, got {value}.")
    for field in dataclasses.fields(options):
        for number in _numbers(getattr(options, field.name)):
            if not math.isfinite(number):
                raise UserError(f"{_flag(field.name)} must be finite, got {number}.")


def check_effects(config: "Config", given: Collection[str]) -> None:
    """Raises a ``UserError`` if a given option has no effect, or LDAM no cosine head.

    Args:
      config: all options, given or default.
      given: the names of the options that were given.
    """
    if config.loss == "ldam" and config.head != "cosine":
        raise UserError(
            "--loss ldam needs --head cosine, because its margins are between cosines; "
            f"got --head {config.head}."
        )
    for name in ("drw_start", "milestones", "rho_milestones", "switch_epoch"):
        last = max(_numbers(getattr(config, name)), default=0)
        if name in given and last >= config.epochs:
            raise UserError(
                f"{_flag(name)} {last} is never reached: a run of --epochs "
                f"{config.epochs} ends with epoch {config.epochs - 1}, counted from 0."
            )
    for name, (other, values) in marks_of(type(config), OnlyWith):
        value = getattr(config, other)
        if name in given and value not in values:
            raise UserError(
                f"{_flag(name)} has no effect with {_flag(other)} {value}: it needs "
                f"{_flag(other)} {' or '.join(values)}."
            )


def has_effect(name: str, options: Mapping[str, Any]) -> bool:
    """Returns whether option ``name`` of ``Config`` has an effect beside the others."""
    return all(
        options.get(other) in values
        for field, (other, values) in marks_of(Config, OnlyWith)
        if field == name
    )


def _numbers(value: Any) -> list[float]:
    """Returns the numbers in the value of an option."""
    values = value if isinstance(value, tuple) else (value,)
    return [v for v in values if isinstance(v, int | float)]


@cache
def marks_of(options: type, kind: type[_Mark]) -> list[tuple[str, _Mark]]:
    """Returns the annotations of one kind on a dataclass, each with its field name."""
    return [
        (name, mark)
        for name, hint in get_type_hints(options, include_extras=True).items()
        for mark in getattr(hint, "__metadata__", ())
        if isinstance(mark, kind)
    ]


@dataclass(frozen=True)
class Config:
    """One training run. Durations are in epochs, accuracies are fractions.

    The defaults are those of the recipe ``digits_lt``. If a manifest was written before
    an option existed, the option has its default.
    """

    config: Annotated[str, about("recipe to start from; sets the defaults below")] = (
        "digits_lt"
    )
    method: Annotated[Method, about("how the gradient is computed")] = "focal_sam"
    seed: Annotated[
        int,
        about("seed of initial weights, data order and augmentation"),
        at_least(0),
        at_most(2**31 - 1),
    ] = 0

    data: Annotated[
        str,
        Section("data"),
        about(
            "digits, fashion_mnist, cifar10, cifar100, imagenet_lt, inaturalist18, "
            "places_lt; or your own: folder:PATH, lists:PATH, idx:PATH, tfds:NAME"
        ),
    ] = "digits"
    image_size: Annotated[
        int,
        about(
            f"side of the images, in pixels; images of up to {IN_MEMORY_SIZE} pixels "
            "are held in memory, larger ones are streamed"
        ),
        at_least(8),
    ] = 8
    input_size: Annotated[
        int | None,
        about("side to which the device resizes images in memory; none: not resized"),
        at_least(8),
    ] = None
    test_resize: Annotated[
        int | None,
        about(
            "shorter side of an image before the centre crop of evaluation, in pixels; "
            "none: 256 for images of 224, or no margin for images in memory"
        ),
    ] = None
    interpolation: Annotated[
        Interpolation,
        about("how images are resized; CLIP was trained with bicubic interpolation"),
    ] = "bilinear"
    imbalance: Annotated[
        Literal["exp", "step", "natural"],
        about(
            "how the tail is cut: exponentially, in half of the classes, or not at all"
        ),
    ] = "exp"
    imbalance_factor: Annotated[
        float,
        about("examples of the largest class / examples of the smallest"),
        at_least(1),
        only_with("imbalance", "exp", "step"),
    ] = 30.0
    subset_seed: Annotated[
        int, about("seed that selects the kept and the held-out images"), at_least(0)
    ] = 0
    held_out: Annotated[
        float,
        about(
            "share of every class's training images held out for validation, before a "
            "tail is cut, if the data have no validation split"
        ),
        at_least(0),
        below(1),
    ] = 0.0
    skip_unreadable: Annotated[
        bool, about("own data: leave out files that cannot be read as images")
    ] = False
    augment: Annotated[Augmentation, about("random changes to training images")] = (
        "affine"
    )

    model: Annotated[
        Network,
        Section("network"),
        about("network; starts from random weights, except clip and --init-weights"),
    ] = "resnet_digits"
    init_weights: Annotated[
        str | None,
        about(
            "ResNets: weights to start from, safetensors with names of torchvision, "
            "timm or Hugging Face: a file, a folder, or a name on the hub; none: random"
        ),
        only_with("model", *RESNETS),
    ] = None
    weights: Annotated[
        str,
        about(
            "clip: folder of a CLIP model, its name on the hub, or random:ViT-B/16 and "
            "the like for random weights"
        ),
        only_with("model", "clip"),
    ] = "openai/clip-vit-base-patch16"
    tuners: Annotated[
        tuple[Tuner, ...],
        about("clip: what is trained besides the last layer; none: only that layer"),
        only_with("model", "clip"),
    ] = ()
    head: Annotated[
        Literal["linear", "cosine"], about("last layer; LDAM needs cosine")
    ] = "linear"
    head_scale: Annotated[
        float,
        about("cosine: factor of the cosines"),
        at_least(0),
        only_with("head", "cosine"),
    ] = 1.0
    head_init: Annotated[
        Literal["random", "text", "text_ensemble", "class_means"],
        about(
            "clip: initial last layer: random, from the prompt 'a photo of a ...', 80 "
            "prompts, or the mean features of every class"
        ),
        only_with("model", "clip"),
    ] = "random"
    class_names: Annotated[
        str | None,
        about(
            "clip: file of class names for prompts, one per line in the order of the "
            "classes, or lines of class, tab, name; none: the data's names"
        ),
        only_with("model", "clip"),
    ] = None
    width: Annotated[
        int,
        about("resnet_digits: channels of the first layer"),
        at_least(1),
        only_with("model", "resnet_digits"),
    ] = 16
    precision: Annotated[
        Literal["float32", "bfloat16"],
        about("dtype of the computation; weights, statistics and norms are float32"),
    ] = "float32"

    loss: Annotated[
        Loss,
        Section("training"),
        about("cross-entropy, focal, LDAM, vector-scaling, logit-adjusted"),
    ] = "la"
    drw_start: Annotated[
        int | None,
        about("first epoch, from 0, with class-balanced weights; none: never"),
        at_least(0),
    ] = None
    epochs: Annotated[int, about("passes over the training set"), at_least(1)] = 400
    batch_size: Annotated[
        int,
        about("examples per step; an incomplete last batch is left out"),
        at_least(1),
    ] = 32
    optimizer: Annotated[
        Literal["sgd", "adamw"], about("optimizer that applies the method's gradient")
    ] = "sgd"
    learning_rate: Annotated[float, about("peak learning rate"), above(0)] = 0.1
    schedule: Annotated[
        Literal["cosine", "multistep"],
        about("learning-rate schedule: cosine decay to 0, or a drop at each milestone"),
    ] = "cosine"
    warmup: Annotated[
        int, about("epochs over which the learning rate rises"), at_least(0)
    ] = 0
    milestones: Annotated[
        tuple[int, ...],
        about("multistep: epochs after which the learning rate drops"),
        only_with("schedule", "multistep"),
    ] = (320, 360)
    decay: Annotated[
        float,
        about("multistep: factor of the learning rate at every milestone"),
        at_least(0),
        at_most(1),
        only_with("schedule", "multistep"),
    ] = 0.1
    momentum: Annotated[
        float,
        about("momentum of SGD, in [0, 1)"),
        at_least(0),
        below(1),
        only_with("optimizer", "sgd"),
    ] = 0.9
    weight_decay: Annotated[
        float,
        about("factor of the weights that SGD adds to the gradient, AdamW to the step"),
        at_least(0),
    ] = 5e-3
    ema: Annotated[
        float,
        about("decay per step of the weight average that is evaluated; 0: no average"),
        at_least(0),
        below(1),
    ] = 0.0

    rho: Annotated[
        float,
        Section("method"),
        about("radius (L2 norm) of the perturbation; SSE-SAM: for the tail classes"),
        at_least(0),
        only_with("method", *(m for m in METHODS if m != "sgd")),
        only_with("rho_schedule", "constant", "linear"),
    ] = 0.0
    rho_schedule: Annotated[
        Literal["constant", "linear", "step"],
        about("rho; linear from rho-start to rho; step through rho-values"),
    ] = "constant"
    rho_start: Annotated[
        float,
        about("linear: rho in the first epoch"),
        at_least(0),
        only_with("rho_schedule", "linear"),
    ] = 0.05
    rho_milestones: Annotated[
        tuple[int, ...],
        about("step: epochs after which the next of rho-values is used"),
        only_with("rho_schedule", "step"),
    ] = (320,)
    rho_values: Annotated[
        tuple[float, ...],
        about("step: values of rho, one more than rho-milestones"),
        only_with("rho_schedule", "step"),
    ] = (0.1, 0.2)
    gamma: Annotated[
        float,
        about("Focal-SAM: exponent of the class weights"),
        at_least(0),
        only_with("method", "focal_sam"),
    ] = 1.0
    lam: Annotated[
        float,
        about("Focal-SAM: strength of the sharpness term"),
        at_least(0),
        only_with("method", "focal_sam"),
    ] = 1.0
    tail_threshold: Annotated[
        int,
        about("ImbSAM, SSE-SAM: classes with fewer examples are the tail"),
        at_least(0),
        only_with("method", "imbsam", "sse_sam"),
    ] = 20
    head_rho: Annotated[
        float,
        about("SSE-SAM: radius for the head classes"),
        at_least(0),
        only_with("method", "sse_sam"),
    ] = 0.05
    switch_epoch: Annotated[
        int,
        about("SSE-SAM: epochs after which head-rho is 0"),
        at_least(0),
        only_with("method", "sse_sam"),
    ] = 280
    alpha: Annotated[
        float,
        about("CC-SAM: share of the perturbed gradients, in [0, 1]"),
        at_least(0),
        at_most(1),
        only_with("method", "cc_sam"),
    ] = 1.0
    perturbed: Annotated[
        Literal["all", "head"],
        about("CC-SAM: what is perturbed; head: only the last layer, as published"),
        only_with("method", "cc_sam"),
    ] = "all"
    approximation: Annotated[
        Approximation,
        about(
            "cheaper approximation of the method: perturb along the previous step's "
            "gradient; LookSAM"
        ),
    ] = "none"
    every: Annotated[
        int,
        about("LookSAM: steps from one exact step to the next"),
        at_least(1),
        only_with("approximation", "looksam"),
    ] = 5

    eval_every: Annotated[
        int,
        Section("records"),
        about("epochs between evaluations on the validation split"),
        at_least(1),
    ] = 10
    sharpness_every: Annotated[
        int,
        about(
            "epochs between measurements of the sharpness of every class; each class "
            "costs a pass over the training set; 0: none"
        ),
        at_least(0),
    ] = 0
    checkpoint_every: Annotated[
        int, about("epochs between checkpoints"), at_least(1)
    ] = 20
    max_skipped: Annotated[
        int,
        about(
            "a step whose loss or gradient is not finite is skipped; this many in a "
            "row end the run"
        ),
        at_least(1),
    ] = 10

    def __post_init__(self):
        check_bounds(self)
        for name in ("milestones", "rho_milestones"):
            epochs = getattr(self, name)
            if list(epochs) != sorted({e for e in epochs if e > 0}):
                raise UserError(
                    f"{_flag(name)} must be increasing epochs greater than 0, got "
                    f"{epochs}."
                )
        if self.rho_schedule == "step":
            wanted = len(self.rho_milestones) + 1
            if len(self.rho_values) != wanted or min(self.rho_values) < 0:
                raise UserError(
                    f"--rho-values must be {wanted} numbers of at least 0, one more "
                    f"than --rho-milestones, got {self.rho_values}."
                )

        if self.test_resize is not None and self.test_resize < self.network_size:
            raise UserError(
                f"--test-resize must be at least the {self.network_size} pixels that "
                f"the network sees, got {self.test_resize}."
            )

    @property
    def in_memory(self) -> bool:
        """Whether the images are held in memory."""
        return self.image_size <= IN_MEMORY_SIZE

    @property
    def network_size(self) -> int:
        """Side of the images that the network sees, in pixels."""
        return self.input_size or self.image_size

    @property
    def eval_resize(self) -> int:
        """Shorter side of an image before the evaluation crop, in pixels."""
        if self.test_resize is not None:
            return self.test_resize
        size = self.network_size
        return size if self.in_memory else round(size * 256 / 224)

    def with_epochs(self, epochs: int) -> "Config":
        """Returns a copy with ``epochs``; milestones and switches are scaled.

        Warm-up keeps its epochs, but at most half of them all.
        """

        def moved(epoch: int) -> int:
            return round(epoch * epochs / self.epochs)

        def rising(milestones: tuple[int, ...]) -> tuple[int, ...]:
            last, found = 0, []
            for epoch in milestones:
                last = max(moved(epoch), last + 1)
                found.append(last)
            return tuple(found)

        changes: dict[str, Any] = {
            "epochs": epochs,
            "warmup": min(self.warmup, epochs // 2),
        }
        if self.drw_start is not None:
            changes["drw_start"] = moved(self.drw_start)
        if self.method == "sse_sam":
            changes["switch_epoch"] = moved(self.switch_epoch)
        if self.schedule == "multistep":
            changes["milestones"] = rising(self.milestones)
        if self.rho_schedule == "step":
            changes["rho_milestones"] = rising(self.rho_milestones)
        return self.replace(**changes)

    def replace(self, **changes) -> "Config":
        """Returns a copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
