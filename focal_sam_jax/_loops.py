"""Loops that run on the host, or on the device inside of ``jit``.

On the host every turn calls functions that are compiled already, may read batches from
disk, and spares XLA's CPU backend the convolutions inside of loops, which it runs many
times slower than outside.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from focal_sam_jax._checks import is_concrete

Carry = TypeVar("Carry")


def repeat(turns: int, body: Callable[[Any, Carry], Carry], carry: Carry) -> Carry:
    """``carry = body(turn, carry)``, so many times."""
    if not all(map(is_concrete, jax.tree.leaves(carry))):
        return jax.lax.fori_loop(0, turns, body, carry)
    for turn in range(turns):
        carry = body(turn, carry)
    return carry


def each(function: Callable[[Any], Any], inputs: Any, *around: Any) -> Any:
    """The results for every row of ``inputs``, stacked.

    Args:
      function: of a row, a tree.
      inputs: a tree of arrays with one leading axis.
      around: what else the function takes from outside; tells where it runs.
    """
    if not all(map(is_concrete, jax.tree.leaves((inputs, around)))):
        return jax.lax.map(function, inputs)
    rows = zip(*jax.tree.leaves(inputs), strict=True)
    structure = jax.tree.structure(inputs)
    results = [function(structure.unflatten(row)) for row in rows]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)
