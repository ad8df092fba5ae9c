"""Steps in which a number was not finite have no effect, and are counted."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Skipped(NamedTuple):
    """Steps without effect, because a number in them was not finite.

    Attributes:
      total: how many, int32, ().
      in_row: how many up to now without a good one between, int32, ().
      stalled_at: number of the step with which the first row that was too long began,
        counted from 0; -1 if there was none. int32, ().
    """

    total: jax.Array
    in_row: jax.Array
    stalled_at: jax.Array


def none_skipped() -> Skipped:
    """At the start of training."""
    return Skipped(*(jnp.full((), n, jnp.int32) for n in (0, 0, -1)))


def all_finite(tree) -> jax.Array:
    """Whether every number in the tree is finite, bool, ()."""
    # The largest size of each array, which NaN is passed on to. A bool of each would be
    # fused into whatever depends on the result, and take XLA several times as long.
    largest = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.isfinite(jnp.stack(largest)))


def select(condition: jax.Array, here, there):
    """The one tree or the other."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), here, there)


def count(
    skipped: Skipped, good: jax.Array, step: jax.Array, max_skipped: int
) -> Skipped:
    """With one more step, of that number, in the count.

    Args:
      skipped: before it.
      good: whether it had an effect, bool, ().
      step: its number, counted from 0, int32, ().
      max_skipped: from how many in a row on training has stalled.
    """
    in_row = jnp.where(good, 0, skipped.in_row + 1)
    too_long = (in_row >= max_skipped) & (skipped.stalled_at < 0)
    return Skipped(
        total=skipped.total + ~good,
        in_row=in_row,
        stalled_at=jnp.where(too_long, step + 1 - in_row, skipped.stalled_at),
    )
