"""Chance, a function of the seed, of a purpose, and of the step or epoch alone.

So a resumed run draws what it would have drawn.
"""

import jax
from jax.sharding import Mesh

from experiments import devices

# Every purpose has a stream of its own.
INIT, ORDER, AUGMENT = range(3)


def random_key(seed: int, mesh: Mesh) -> jax.Array:
    """The random key of a seed, on every device."""
    return jax.jit(jax.random.key, out_shardings=devices.replicated(mesh))(seed)


def stream(key: jax.Array, purpose: int) -> jax.Array:
    """The key of a purpose."""
    return jax.random.fold_in(key, purpose)
