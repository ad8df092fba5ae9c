"""Focal-SAM and its relatives as Optax gradient transformations."""

from focal_sam_jax import losses as losses
from focal_sam_jax import sharpness as sharpness
from focal_sam_jax._approximations import looksam as looksam
from focal_sam_jax._approximations import reuse_ascent as reuse_ascent
from focal_sam_jax._class_weights import cc_sam_radii as cc_sam_radii
from focal_sam_jax._class_weights import class_priors as class_priors
from focal_sam_jax._class_weights import focal_weights as focal_weights
from focal_sam_jax._class_weights import per_class_losses as per_class_losses
from focal_sam_jax._class_weights import tail_weights as tail_weights
from focal_sam_jax._evaluation import Evaluation as Evaluation
from focal_sam_jax._evaluation import evaluate as evaluate
from focal_sam_jax._shared_backward import apply_per_example as apply_per_example
from focal_sam_jax._transforms import SharpnessAwareState as SharpnessAwareState
from focal_sam_jax._transforms import SharpnessInfo as SharpnessInfo
from focal_sam_jax._transforms import cc_sam as cc_sam
from focal_sam_jax._transforms import class_conditional as class_conditional
from focal_sam_jax._transforms import focal_sam as focal_sam
from focal_sam_jax._transforms import imbsam as imbsam
from focal_sam_jax._transforms import sam as sam
from focal_sam_jax._transforms import sharpness_aware as sharpness_aware
from focal_sam_jax._transforms import sse_sam as sse_sam
from focal_sam_jax._value_and_grad import (
    class_conditional_value_and_grad as class_conditional_value_and_grad,
)
from focal_sam_jax._value_and_grad import (
    sharpness_aware_value_and_grad as sharpness_aware_value_and_grad,
)

__version__ = "0.2.0"

__all__ = [
    "Evaluation",
    "SharpnessAwareState",
    "SharpnessInfo",
    "apply_per_example",
    "cc_sam",
    "cc_sam_radii",
    "class_conditional",
    "class_conditional_value_and_grad",
    "class_priors",
    "evaluate",
    "focal_sam",
    "focal_weights",
    "imbsam",
    "looksam",
    "losses",
    "per_class_losses",
    "reuse_ascent",
    "sam",
    "sharpness",
    "sharpness_aware",
    "sharpness_aware_value_and_grad",
    "sse_sam",
    "tail_weights",
]
