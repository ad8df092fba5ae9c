"""Random keys, which depend only on the seed, a purpose, and the step or epoch.

So a resumed run draws the same numbers.
"""

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Every purpose has its own stream.
INIT, ORDER, AUGMENT = range(3)


def random_key(seed: int, mesh: Mesh) -> jax.Array:
    """Returns the random key of a seed, on every device."""
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.jit(jax.random.key, out_shardings=everywhere)(seed)


def stream(key: jax.Array, purpose: int) -> jax.Array:
    """Returns the key of a purpose."""
    return jax.random.fold_in(key, purpose)
