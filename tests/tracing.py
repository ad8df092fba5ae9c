"""How often JAX traces a function, and so compiles it.

Not by the size of the cache of ``jax.jit``: in a long run of many tests it was once
empty after two calls.
"""

from functools import wraps


def counted(function):
    """``function``, whose attribute ``traces`` grows with every call: under ``jit``,
    with every trace."""

    @wraps(function)
    def counting(*args, **kwargs):
        counting.traces += 1
        return function(*args, **kwargs)

    counting.traces = 0
    return counting
