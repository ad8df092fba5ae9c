"""A network small enough for a dense Hessian, and its per-class losses."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import focal_sam_jax as fsam

CLASSES, SIZE = 3, 20
COUNTS = np.array([12, 6, 2])


def data():
    """Inputs ``(20, 4)`` and labels ``(20,)``."""
    x = jax.random.normal(jax.random.key(0), (SIZE, 4), float)
    y = jnp.asarray(np.repeat(np.arange(CLASSES, dtype=np.int32), COUNTS))
    return x, y


def network(seed=1):
    """Parameters, 4 inputs to 5 hidden units to 3 classes."""
    first, second, third = jax.random.split(jax.random.key(seed), 3)
    return {
        "hidden": {
            "kernel": jax.random.normal(first, (4, 5), float),
            "bias": jax.random.normal(second, (5,), float) / 2,
        },
        "out": {"kernel": jax.random.normal(third, (5, CLASSES), float)},
    }


def loss(params, x, y):
    """Computes a batch's contribution to the per-class losses of the whole set."""
    hidden = jnp.tanh(x @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
    losses = fsam.losses.cross_entropy(hidden @ params["out"]["kernel"], y)
    return fsam.per_class_losses(losses, y, CLASSES) * (len(y) / SIZE)


_LOSSES = fsam.sharpness.class_losses(loss)


def class_losses():
    """Returns the losses of all data in one batch; compiled once for all tests."""
    return _LOSSES.over([data()])


def dense_hessian(params, class_weights):
    """The Hessian as a matrix, float ``(n, n)``."""
    return np.asarray(_dense_hessian(params, class_weights * jnp.ones(CLASSES)))


@jax.jit
def _dense_hessian(params, class_weights):
    flat, unravel = ravel_pytree(params)

    def weighted(flat):
        return jnp.sum(class_weights * loss(unravel(flat), *data()))

    return jax.hessian(weighted)(flat)


def quadratic(matrix, slope=None):
    r"""The loss :math:`\frac12 w^T A w + b^T w` in class 0, and nothing in class 1."""

    def of_classes(w):
        value = w @ matrix @ w / 2
        value += 0.0 if slope is None else slope @ w
        return jnp.stack([value, jnp.zeros_like(value)])

    return fsam.sharpness.class_losses(of_classes)
