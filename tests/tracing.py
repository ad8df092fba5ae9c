"""A counter of how often JAX traces, and so compiles, a function.

The cache size of ``jax.jit`` is unreliable: in a long test run it was once empty after
two calls.
"""

from functools import wraps


def counted(function):
    """Adds a counter ``traces`` of calls; under ``jit``, it counts traces."""

    @wraps(function)
    def counting(*args, **kwargs):
        counting.traces += 1
        return function(*args, **kwargs)

    counting.traces = 0
    return counting
