"""What an experiment is: one frozen record, from which everything else follows."""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal, get_args

import tyro

from experiments.errors import UserError

Method = Literal["sgd", "sam", "imbsam", "cc_sam", "focal_sam"]
Loss = Literal["ce", "focal", "vs", "la"]
METHODS: tuple[Method, ...] = get_args(Method)


def _option(help_text: str):
    return tyro.conf.arg(help=help_text)


@dataclass(frozen=True)
class Config:
    """One training run. Durations are in epochs, accuracies are fractions."""

    config: Annotated[str, _option("recipe to start from; sets the defaults below")]
    method: Annotated[Method, _option("how the gradient is made")]
    seed: Annotated[int, _option("of initial weights, data order and augmentation")]
    subset_seed: Annotated[int, _option("of the long-tailed subset")]
    epochs: Annotated[int, _option("passes over the training set")]
    batch_size: Annotated[int, _option("examples a step; an incomplete rest waits")]
    learning_rate: Annotated[float, _option("at the start; falls to 0 as a cosine")]
    momentum: Annotated[float, _option("of SGD, in [0, 1)")]
    weight_decay: Annotated[float, _option("added to the gradient, times the weights")]
    loss: Annotated[
        Loss, _option("cross-entropy, focal, vector-scaling, logit-adjusted")
    ]
    imbalance_factor: Annotated[
        float, _option("examples of the largest class over those of the smallest")
    ]
    augment: Annotated[bool, _option("random small rotations, scalings and shifts")]
    width: Annotated[int, _option("channels of the first layer")]
    rho: Annotated[float, _option("radius of the perturbation, L2 norm of weights")]
    gamma: Annotated[float, _option("Focal-SAM: exponent of the class weights")]
    lam: Annotated[float, _option("Focal-SAM: strength of the sharpness term")]
    tail_threshold: Annotated[
        int, _option("ImbSAM: classes with fewer examples are the tail")
    ]
    alpha: Annotated[float, _option("CC-SAM: share of the perturbed gradients, [0,1]")]
    eval_every: Annotated[int, _option("epochs between looks at the validation part")]
    checkpoint_every: Annotated[int, _option("epochs between checkpoints")]

    def __post_init__(self):
        for name, low in _LOWER_BOUNDS.items():
            value = getattr(self, name)
            if not value >= low:
                flag = name.replace("_", "-")
                raise UserError(f"--{flag} must be at least {low}, got {value}.")
        if not self.learning_rate > 0:
            raise UserError(
                f"--learning-rate must be greater than 0, got {self.learning_rate}."
            )
        if not self.momentum < 1:
            raise UserError(f"--momentum must be less than 1, got {self.momentum}.")
        if not self.alpha <= 1:
            raise UserError(f"--alpha must be at most 1, got {self.alpha}.")

    def replace(self, **changes) -> "Config":
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


_LOWER_BOUNDS = {
    "seed": 0,
    "subset_seed": 0,
    "epochs": 1,
    "batch_size": 1,
    "momentum": 0,
    "weight_decay": 0,
    "imbalance_factor": 1,
    "width": 1,
    "rho": 0,
    "gamma": 0,
    "lam": 0,
    "tail_threshold": 0,
    "alpha": 0,
    "eval_every": 1,
    "checkpoint_every": 1,
}
