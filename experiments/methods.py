"""From the name of a method, or of a loss, to the function."""

from collections.abc import Callable

import jax
import numpy as np
import optax

import focal_sam_jax as fsam
from experiments.config import Config


def make_method(
    config: Config, class_counts: np.ndarray
) -> optax.GradientTransformation:
    """The transformation that turns a plain gradient into that of ``config.method``.

    Its ``update`` wants the extra argument ``per_class_loss_fn``, a function from the
    parameters to ``(losses, aux)``; plain SGD ignores it.
    """
    match config.method:
        case "sgd":
            return optax.with_extra_args_support(optax.identity())
        case "sam":
            return fsam.sam(rho=config.rho, has_aux=True)
        case "imbsam":
            return fsam.imbsam(
                class_counts,
                rho=config.rho,
                tail_threshold=config.tail_threshold,
                has_aux=True,
            )
        case "cc_sam":
            return fsam.cc_sam(
                class_counts, rho=config.rho, alpha=config.alpha, has_aux=True
            )
        case "focal_sam":
            return fsam.focal_sam(
                class_counts,
                rho=config.rho,
                gamma=config.gamma,
                lam=config.lam,
                has_aux=True,
            )


def make_optimizer(
    config: Config, class_counts: np.ndarray, total_steps: int
) -> optax.GradientTransformationExtraArgs:
    """The method, then weight decay, then SGD with momentum and a cosine schedule.

    Weight decay comes after the method: it takes no part in the perturbation.
    """
    schedule = optax.cosine_decay_schedule(config.learning_rate, total_steps)
    return optax.chain(
        make_method(config, class_counts),
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(schedule, momentum=config.momentum),
    )


def make_loss(
    config: Config, class_counts: np.ndarray
) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """The loss, a function of logits and labels to one number an example."""
    match config.loss:
        case "ce":
            return fsam.losses.cross_entropy
        case "focal":
            return fsam.losses.focal
        case "vs":
            return lambda logits, labels: fsam.losses.vector_scaling(
                logits, labels, class_counts
            )
        case "la":
            return lambda logits, labels: fsam.losses.logit_adjusted(
                logits, labels, class_counts
            )
