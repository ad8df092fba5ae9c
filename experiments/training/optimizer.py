"""Construction of the optimizer from the name of a method."""

import numpy as np
import optax

import focal_sam_jax as fsam
from experiments.config import Config
from experiments.errors import UserError
from experiments.training import schedules


def make_method(
    config: Config, class_counts: np.ndarray, steps_per_epoch: int
) -> optax.GradientTransformation:
    """Returns the transformation of a plain gradient into that of ``config.method``.

    Its ``update`` needs the extra argument ``evaluation``, the result of
    ``fsam.evaluate``; plain SGD ignores it.

    Raises:
      UserError: if the method has no such approximation.
    """
    rho = schedules.radius(config, steps_per_epoch)
    switch_step = config.switch_epoch * steps_per_epoch
    match config.approximation:
        case "none":
            return _exact(config, class_counts, rho, switch_step)
        case "reuse_ascent":
            weights, lam = _class_weights(config, class_counts)
            return fsam.reuse_ascent(weights, rho=rho, lam=lam)
        case "looksam":
            if config.method == "sgd":
                raise _no_approximation(config)
            # LookSAM's method counts exact steps; the schedule counts all steps.
            by_exact = (lambda n: rho(n * config.every)) if callable(rho) else rho
            exact = _exact(
                config, class_counts, by_exact, -(-switch_step // config.every)
            )
            return fsam.looksam(exact, every=config.every)


def _exact(config, class_counts, rho, switch_step):
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
            mask = _last_layer if config.perturbed == "head" else None
            return fsam.cc_sam(class_counts, rho=rho, alpha=config.alpha, mask=mask)
        case "sse_sam":
            return fsam.sse_sam(
                class_counts,
                head_rho=config.head_rho,
                tail_rho=rho,
                tail_threshold=config.tail_threshold,
                switch_step=switch_step,
            )
        case "focal_sam":
            return fsam.focal_sam(
                class_counts,
                rho=rho,
                gamma=config.gamma,
                lam=config.lam,
            )


def _last_layer(params):
    return {name: name == "head" for name in params}


def _class_weights(config, class_counts):
    """Returns s and lambda; these methods differ in nothing else."""
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
    """Chains the method, then weight decay, then SGD with momentum and a schedule.

    Or the method, then AdamW. In both cases weight decay comes after the method and
    does not affect the perturbation.
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
