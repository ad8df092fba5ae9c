"""From the name of a method, or of a loss, to the function."""

from collections.abc import Callable

import jax
import numpy as np
import optax

import focal_sam_jax as fsam
from experiments import schedules
from experiments.config import Config
from experiments.errors import UserError

# (logits, labels, epoch) -> a loss for every example.
Loss = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def make_method(
    config: Config, class_counts: np.ndarray, steps_per_epoch: int
) -> optax.GradientTransformation:
    """The transformation that turns a plain gradient into that of ``config.method``.

    Its ``update`` wants the extra argument ``evaluation``, what ``fsam.evaluate``
    returned; plain SGD ignores it.

    Raises:
      UserError: if the method has no such approximation.
    """
    rho = schedules.radius(config, steps_per_epoch)
    match config.approximation:
        case "none":
            return _exact(config, class_counts, rho)
        case "reuse_ascent":
            weights, lam = _class_weights(config, class_counts)
            return fsam.reuse_ascent(weights, rho=rho, lam=lam)
        case "looksam":
            if config.method == "sgd":
                raise _no_approximation(config)
            # LookSAM's method counts exact steps, the schedule all of them.
            by_exact = (lambda n: rho(n * config.every)) if callable(rho) else rho
            return fsam.looksam(
                _exact(config, class_counts, by_exact), every=config.every
            )


def _exact(config, class_counts, rho):
    match config.method:
        case "sgd":
            return optax.with_extra_args_support(optax.identity())
        case "sam":
            return fsam.sam(rho=rho)
        case "imbsam":
            return fsam.imbsam(
                class_counts,
                rho=rho,
                tail_threshold=config.tail_threshold,
            )
        case "cc_sam":
            return fsam.cc_sam(class_counts, rho=rho, alpha=config.alpha)
        case "focal_sam":
            return fsam.focal_sam(
                class_counts,
                rho=rho,
                gamma=config.gamma,
                lam=config.lam,
            )


def _class_weights(config, class_counts):
    """s and lambda of the methods that differ in nothing else."""
    match config.method:
        case "sam":
            return 1.0, 1.0
        case "imbsam":
            return fsam.tail_weights(class_counts, config.tail_threshold), 1.0
        case "focal_sam":
            return fsam.focal_weights(class_counts, config.gamma), config.lam
    raise _no_approximation(config)


def _no_approximation(config):
    return UserError(
        f"--approximation {config.approximation} has no meaning for --method "
        f"{config.method}: choose none, or another method."
    )


def make_optimizer(
    config: Config, class_counts: np.ndarray, steps_per_epoch: int
) -> optax.GradientTransformationExtraArgs:
    """The method, then weight decay, then SGD with momentum and a schedule.

    Or the method, then AdamW. Either way weight decay comes after the method: it takes
    no part in the perturbation.
    """
    method = make_method(config, class_counts, steps_per_epoch)
    learning_rate = schedules.learning_rate(config, steps_per_epoch)
    if config.optimizer == "adamw":
        adamw = optax.adamw(learning_rate, weight_decay=config.weight_decay)
        return optax.chain(method, adamw)
    return optax.chain(
        method,
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(learning_rate, momentum=config.momentum),
    )


def make_loss(config: Config, class_counts: np.ndarray) -> Loss:
    """The loss of every example, from logits, labels and the epoch counted from 0.

    With deferred re-weighting an example's loss is multiplied by its class's weight;
    the mean over a batch is not divided by the weights.
    """
    per_example = _per_example_loss(config, class_counts)
    if config.drw_start is None:
        return lambda logits, labels, epoch: per_example(logits, labels)

    def reweighted(logits, labels, epoch):
        weights = fsam.losses.deferred_weights(
            class_counts, epoch, start_epoch=config.drw_start
        )
        return weights[labels] * per_example(logits, labels)

    return reweighted


def _per_example_loss(config, class_counts):
    losses = fsam.losses
    match config.loss:
        case "ce":
            return losses.cross_entropy
        case "focal":
            return losses.focal
        case "ldam":
            return lambda logits, labels: losses.ldam(logits, labels, class_counts)
        case "vs":
            return lambda logits, labels: losses.vector_scaling(
                logits, labels, class_counts
            )
        case "la":
            return lambda logits, labels: losses.logit_adjusted(
                logits, labels, class_counts
            )
