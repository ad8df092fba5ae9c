"""Several seeds in one program: ``vmap`` over the whole training state."""

import jax
import jax.numpy as jnp

from experiments.benchmark.contestant import Contestant
from experiments.benchmark.jax_steps import build, step_contestant
from experiments.benchmark.workload import Method, Workload, step_name

SEEDS = (1, 2, 4, 8, 16)


def seeds_step(workload: Workload, method: Method, seeds: int) -> Contestant:
    """Returns a step of several seeds, each with its own weights and batch."""
    step, state, (frozen, *batch) = build(workload, method)

    def stack(tree):
        return jax.tree.map(lambda leaf: jnp.stack([leaf] * seeds), tree)

    # Frozen weights are the same for all.
    over_seeds = jax.vmap(step, in_axes=(0, None, 0, 0))
    state, arguments = stack(state), (frozen, *stack(batch))
    name = {**step_name("jax", workload, method), "seeds": seeds}
    return step_contestant(name, over_seeds, state, arguments)
