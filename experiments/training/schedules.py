"""Learning rate and perturbation radius at every step; options are in epochs."""

import jax.numpy as jnp
import optax

from experiments.config import Config
from experiments.errors import UserError


def learning_rate(config: Config, steps_per_epoch: int) -> optax.Schedule:
    r"""Returns the learning rate at every step, counted from 0.

    .. math::
      \eta_t = \eta \, \min(1, \tfrac{t + 1}{t_w}) \, f(t)

    where the warm-up has :math:`t_w` steps. For "cosine", :math:`f` falls step by step
    from 1 at the end of the warm-up to 0 at the end of the run. For "multistep", it is
    multiplied by ``decay`` after every milestone.

    Raises:
      UserError: if the warm-up is not shorter than the run.
    """
    if config.warmup >= config.epochs:
        raise UserError(
            f"--warmup must be less than --epochs {config.epochs}, got {config.warmup}."
        )
    warmup = config.warmup * steps_per_epoch
    match config.schedule:
        case "cosine":
            cosine = optax.cosine_decay_schedule(
                config.learning_rate, config.epochs * steps_per_epoch - warmup
            )

            def main(step):
                return cosine(jnp.maximum(step - warmup, 0))

        case "multistep":
            main = optax.piecewise_constant_schedule(
                config.learning_rate,
                {m * steps_per_epoch: config.decay for m in config.milestones},
            )
    if not warmup:
        return main
    return lambda step: jnp.minimum(1.0, (step + 1) / warmup) * main(step)


def radius(config: Config, steps_per_epoch: int) -> float | optax.Schedule:
    """Returns the perturbation radius: a number, or a schedule by epochs.

    "linear" goes from ``rho_start`` in the first epoch to ``rho`` in the last. "step"
    takes the next of ``rho_values`` after every milestone.
    """
    match config.rho_schedule:
        case "constant":
            return config.rho
        case "linear":
            rise = config.rho - config.rho_start
            last = max(config.epochs - 1, 1)
            return lambda step: (
                config.rho_start
                + rise * (jnp.minimum(step // steps_per_epoch, last) / last)
            )
        case "step":
            milestones = jnp.asarray(config.rho_milestones)
            values = jnp.asarray(config.rho_values, jnp.float32)
            return lambda step: values[
                jnp.searchsorted(milestones, step // steps_per_epoch, side="right")
            ]


def at(config: Config, steps_per_epoch: int, step: int) -> dict[str, float]:
    """Returns the learning rate, and the radius if any, at a step from 0."""
    values = {"learning_rate": float(learning_rate(config, steps_per_epoch)(step))}
    if config.method != "sgd":
        rho = radius(config, steps_per_epoch)
        values["rho"] = float(rho(step) if callable(rho) else rho)
    return values
