"""The Optax dress that all methods wear: state, counter, composition checks."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from focal_sam_jax._checks import check_scalar
from focal_sam_jax._composition import check_composition
from focal_sam_jax._devices import AxisName, device_mean
from focal_sam_jax._forward import after
from focal_sam_jax._gradient import Correction, add_correction

Rho = chex.Numeric | optax.Schedule


class SharpnessInfo(NamedTuple):
    r"""What the last step saw on its way, for free.

    ``optax.tree.get(opt_state, "sharpness")`` reads it from any optimizer state.

    Attributes:
      ascent_norm: norm of the gradient that was climbed, :math:`\lVert g_s \rVert_2`;
        for CC-SAM the root of the sum of the squared class norms. float32, ().
      sharpness: rise of the weighted loss on the batch,
        :math:`\sum_c s_c [L_c(\theta + \epsilon) - L_c(\theta)]`. float32, ().
    """

    ascent_norm: jax.Array
    sharpness: jax.Array


class SharpnessAwareState(NamedTuple):
    """State of the transformations: a counter and two numbers, no copy of parameters.

    Attributes:
      count: updates made so far, which drives a schedule of rho. int32, ().
      info: what the last update saw.
    """

    count: jax.Array
    info: SharpnessInfo


def transformation(
    name: str,
    correct: Callable[..., Correction],
    rho: Rho,
    strength: chex.Numeric,
    axis_name: AxisName,
) -> optax.GradientTransformationExtraArgs:
    """``updates + strength * correct(per_class_loss_fn, params, rho, **known)``.

    ``known`` has the ``labels`` and the ``evaluation`` of the batch, or ``None``.
    """
    check_rho(rho)

    def init(params):
        del params
        return SharpnessAwareState(jnp.zeros((), jnp.int32), as_info(0.0, 0.0))

    def update(
        updates,
        state,
        params=None,
        *,
        per_class_loss_fn=None,
        per_example_labels=None,
        evaluation=None,
        **extra_args,
    ):
        del extra_args
        check_composition(name, updates, params, per_class_loss_fn)
        # The activations at θ can go before those at θ + ε come.
        rho_now = after(updates, radius(rho, state.count))
        correction = correct(
            per_class_loss_fn,
            params,
            rho_now,
            labels=per_example_labels,
            evaluation=evaluation,
        )
        correction = device_mean(correction, axis_name)
        info = as_info(correction.ascent_norm, correction.sharpness)
        updates = add_correction(updates, correction.gradient, strength)
        count = jnp.asarray(optax.safe_increment(state.count))
        return updates, SharpnessAwareState(count, info)

    return optax.GradientTransformationExtraArgs(init, update)


def check_rho(rho: Rho) -> None:
    """Raises unless ``rho`` is a radius or a schedule of radii."""
    if not callable(rho):
        check_scalar("rho", rho, low=0)


def radius(rho: Rho, count: jax.Array) -> Any:
    """``rho`` after ``count`` updates."""
    return rho(count) if callable(rho) else rho


def as_info(ascent_norm: chex.Numeric, sharpness: chex.Numeric) -> SharpnessInfo:
    """In the dtype of the state."""
    return SharpnessInfo(
        jnp.asarray(ascent_norm, jnp.float32), jnp.asarray(sharpness, jnp.float32)
    )
