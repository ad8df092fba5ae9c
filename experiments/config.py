"""What an experiment is: one frozen record, from which everything else follows."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import tyro

from experiments.errors import UserError

Method = Literal["sgd", "sam", "imbsam", "cc_sam", "focal_sam"]
Approximation = Literal["none", "reuse_ascent", "looksam"]
Loss = Literal["ce", "focal", "ldam", "vs", "la"]
Network = Literal[
    "resnet_digits",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet50",
    "resnext50",
    "vit_digits",
    "clip",
]
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
METHODS: tuple[Method, ...] = get_args(Method)
LOSSES: tuple[Loss, ...] = get_args(Loss)

# How data of the user's own begin: what they are, and where.
OWN_DATA = ("folder:", "lists:", "tfds:")
# Up to this size images are held in memory; larger ones are streamed from disk.
IN_MEMORY_SIZE = 64
# Pixels that five crops leave out between them, as LIFT has it.
_FIVE_CROPS_MARGIN = 24


def _option(help_text: str):
    return tyro.conf.arg(help=help_text)


@dataclass(frozen=True)
class Config:
    """One training run. Durations are in epochs, accuracies are fractions."""

    config: Annotated[str, _option("recipe to start from; sets the defaults below")]
    method: Annotated[Method, _option("how the gradient is made")]
    seed: Annotated[int, _option("of initial weights, data order and augmentation")]

    data: Annotated[
        str,
        _option(
            "digits, cifar10, cifar100, imagenet_lt, inaturalist18, places_lt; or your "
            "own: folder:PATH, lists:PATH, tfds:NAME"
        ),
    ]
    image_size: Annotated[
        int,
        _option(
            f"side of the images, in pixels; up to {IN_MEMORY_SIZE} they are held in "
            "memory, larger ones are streamed"
        ),
    ]
    input_size: Annotated[
        int | None,
        _option("side to which the device resizes images in memory; none: as they are"),
    ]
    test_resize: Annotated[
        int | None,
        _option(
            "shorter side of an image before its middle is judged, in pixels; none: "
            "256 for images of 224, or without a margin where the device resizes"
        ),
    ]
    five_crops: Annotated[
        bool,
        _option("judge by the mean over four corners and the middle of an image"),
    ]
    imbalance: Annotated[
        Literal["exp", "step", "natural"],
        _option("how the tail is cut: exponential, half and half, not at all"),
    ]
    imbalance_factor: Annotated[
        float, _option("examples of the largest class over those of the smallest")
    ]
    subset_seed: Annotated[int, _option("of what is kept, and what is held out")]
    held_out: Annotated[
        float,
        _option(
            "share of every class's training images set aside to choose the best epoch "
            "by, where the data bring no validation part of their own"
        ),
    ]
    augment: Annotated[Augmentation, _option("random changes to training images")]
    randaugment: Annotated[
        int, _option("magnitude, to 30, of two random operations an image; 0: none")
    ]
    cutout: Annotated[int, _option("side of the square erased, in pixels; 0: none")]
    mixup: Annotated[float, _option("parameter of the Beta distribution; 0: none")]

    model: Annotated[
        Network, _option("network, trained from scratch; clip: tuned from --weights")
    ]
    weights: Annotated[
        str,
        _option(
            "clip: folder of a CLIP model, its name on the hub, or random:ViT-B/16 and "
            "the like for weights that are drawn"
        ),
    ]
    tuners: Annotated[
        tuple[Tuner, ...],
        _option("clip: what is trained beside the last layer; nothing: a probe"),
    ]
    bottleneck: Annotated[
        int | None,
        _option("clip: width inside adapters and LoRA; none: by the classes"),
    ]
    head: Annotated[
        Literal["linear", "cosine"], _option("last layer; cosine goes with LDAM")
    ]
    head_scale: Annotated[float, _option("cosine: what cosines are multiplied by")]
    head_init: Annotated[
        Literal["random", "text", "text_ensemble", "class_means"],
        _option(
            "clip: what the last layer starts from: chance, the prompt 'a photo of a "
            "...', 80 prompts, or the mean features of every class"
        ),
    ]
    class_names: Annotated[
        str | None,
        _option(
            "clip: file of the names for prompts, one a line in the order of the "
            "classes, or class, tab, name; none: the data's own"
        ),
    ]
    width: Annotated[int, _option("resnet_digits: channels of the first layer")]
    precision: Annotated[
        Literal["float32", "bfloat16"],
        _option("of the computation; weights, statistics and norms are in float32"),
    ]

    loss: Annotated[
        Loss,
        _option("cross-entropy, focal, LDAM, vector-scaling, logit-adjusted"),
    ]
    drw_start: Annotated[
        int | None,
        _option("first epoch, from 0, with class-balanced weights; none: never"),
    ]
    epochs: Annotated[int, _option("passes over the training set")]
    batch_size: Annotated[int, _option("examples a step; an incomplete rest waits")]
    optimizer: Annotated[
        Literal["sgd", "adamw"], _option("what makes steps of the method's gradient")
    ]
    learning_rate: Annotated[float, _option("its largest value")]
    schedule: Annotated[
        Literal["cosine", "multistep"],
        _option("of the learning rate: to 0 as a cosine, or in jumps"),
    ]
    warmup: Annotated[int, _option("epochs over which the learning rate rises")]
    milestones: Annotated[
        tuple[int, ...], _option("multistep: epochs after which it falls")
    ]
    decay: Annotated[float, _option("multistep: factor at every milestone")]
    momentum: Annotated[float, _option("of SGD, in [0, 1)")]
    weight_decay: Annotated[
        float,
        _option("times the weights: SGD adds it to the gradient, AdamW to the step"),
    ]
    ema: Annotated[
        float,
        _option("decay a step of the averaged weights that are evaluated; 0: none"),
    ]

    rho: Annotated[float, _option("radius of the perturbation, L2 norm of weights")]
    rho_schedule: Annotated[
        Literal["constant", "linear", "step"],
        _option("rho; from rho-start to rho; rho-values in turn"),
    ]
    rho_start: Annotated[float, _option("linear: in the first epoch")]
    rho_milestones: Annotated[
        tuple[int, ...], _option("step: epochs after which the next value holds")
    ]
    rho_values: Annotated[
        tuple[float, ...], _option("step: one more than there are milestones")
    ]
    gamma: Annotated[float, _option("Focal-SAM: exponent of the class weights")]
    lam: Annotated[float, _option("Focal-SAM: strength of the sharpness term")]
    tail_threshold: Annotated[
        int, _option("ImbSAM: classes with fewer examples are the tail")
    ]
    alpha: Annotated[float, _option("CC-SAM: share of the perturbed gradients, [0,1]")]
    approximation: Annotated[
        Approximation,
        _option(
            "cheaper than the method, and not the same: climb by the last step's "
            "gradient; LookSAM"
        ),
    ]
    every: Annotated[int, _option("LookSAM: steps from one exact step to the next")]

    eval_every: Annotated[int, _option("epochs between looks at the validation part")]
    sharpness_every: Annotated[
        int,
        _option(
            "epochs between looks at the sharpness of every class, for which each "
            "costs a pass over the training set; 0: none"
        ),
    ]
    checkpoint_every: Annotated[int, _option("epochs between checkpoints")]
    max_skipped: Annotated[
        int,
        _option(
            "a step whose loss or gradient is not finite is skipped; so many in a row "
            "end the run"
        ),
    ]

    def __post_init__(self):
        for name, low in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= low:
                raise UserError(f"{_flag(name)} must be at least {low}, got {value}.")
        for name, high in _AT_MOST.items():
            value = getattr(self, name)
            if not value <= high:
                raise UserError(f"{_flag(name)} must be at most {high}, got {value}.")
        for name, high in _LESS_THAN.items():
            value = getattr(self, name)
            if not value < high:
                raise UserError(f"{_flag(name)} must be less than {high}, got {value}.")
        if not self.learning_rate > 0:
            raise UserError(
                f"--learning-rate must be greater than 0, got {self.learning_rate}."
            )
        if self.drw_start is not None and self.drw_start < 0:
            raise UserError(f"--drw-start must be at least 0, got {self.drw_start}.")
        for name in ("milestones", "rho_milestones"):
            epochs = getattr(self, name)
            if list(epochs) != sorted({e for e in epochs if e > 0}):
                raise UserError(
                    f"{_flag(name)} must be rising epochs greater than 0, got {epochs}."
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
    def judged_size(self) -> int:
        """Side of the images that are judged, before parts of them are cut out."""
        return self.network_size + _FIVE_CROPS_MARGIN * self.five_crops

    def replace(self, **changes) -> "Config":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


_AT_LEAST = {
    "seed": 0,
    "image_size": 8,
    "input_size": 8,
    "imbalance_factor": 1,
    "subset_seed": 0,
    "held_out": 0,
    "randaugment": 0,
    "cutout": 0,
    "mixup": 0,
    "width": 1,
    "bottleneck": 1,
    "head_scale": 0,
    "epochs": 1,
    "batch_size": 1,
    "warmup": 0,
    "decay": 0,
    "momentum": 0,
    "weight_decay": 0,
    "ema": 0,
    "rho": 0,
    "rho_start": 0,
    "gamma": 0,
    "lam": 0,
    "tail_threshold": 0,
    "alpha": 0,
    "every": 1,
    "eval_every": 1,
    "sharpness_every": 0,
    "checkpoint_every": 1,
    "max_skipped": 1,
}
_AT_MOST = {"randaugment": 30, "alpha": 1, "decay": 1}
_LESS_THAN = {"momentum": 1, "ema": 1, "held_out": 1}
