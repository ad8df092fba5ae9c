"""Means over random draws, with their errors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Estimate(NamedTuple):
    """A mean over random draws.

    Attributes:
      mean: float array.
      standard_error: of the mean, the same shape; NaN for a single draw.
    """

    mean: jax.Array
    standard_error: jax.Array


def estimate(draws: jax.Array) -> Estimate:
    """Mean over the first axis and its standard error."""
    number = draws.shape[0]
    if number == 1:
        return Estimate(draws[0], jnp.full_like(draws[0], jnp.nan))
    error = jnp.std(draws, axis=0, ddof=1) / number**0.5
    return Estimate(jnp.mean(draws, axis=0), error)
