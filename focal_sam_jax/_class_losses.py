r"""The losses of a whole data set, class by class, with their first two derivatives.

All that is measured here is of a weighted sum :math:`\sum_c s_c L_c(\theta)`: of one
class, of a group, of all. The weights are an argument, so that what was compiled for
one class serves all of them.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from focal_sam_jax._loss_functions import PerClassLossFn, as_array_fn


class ClassLosses(NamedTuple):
    r"""What :func:`class_losses` makes; :math:`L_c` in the docstrings of this module.

    Attributes:
      values: from parameters to :math:`L_c`, shape ``(num_classes,)``.
      gradient: from parameters and weights, a scalar or shape ``(num_classes,)``, to
        :math:`\nabla \sum_c s_c L_c`, a tree like the parameters.
      product: from parameters, weights and a tree like the parameters to
        :math:`\nabla^2 \big(\sum_c s_c L_c\big) v`, a tree like the parameters.
    """

    values: Callable[[chex.ArrayTree], jax.Array]
    gradient: Callable[[chex.ArrayTree, chex.Numeric], chex.ArrayTree]
    product: Callable[[chex.ArrayTree, chex.Numeric, chex.ArrayTree], chex.ArrayTree]


def class_losses(
    per_class_loss_fn: PerClassLossFn, batches: Iterable[tuple[Any, ...]] | None = None
) -> ClassLosses:
    r"""The losses to measure, of one batch or of the sum over many.

    .. math::
      L_c(\theta) = \sum_k f_c(\theta, \text{batch}_k)

    Batches are visited one after the other, so that memory does not grow with their
    number; outside of ``jit`` each is a call of a compiled function, and they may come
    from disk. Arrays that are split over devices stay so, as in training under ``jit``.

    For the mean over a set of N examples, ``f`` divides the sums of its batch by N:
    ``fsam.per_class_losses(losses, y, num_classes) * len(y) / N``. The mean over the
    examples of a class is that over the class's share of the set,
    :math:`L_c / \pi_c`, and so are its sharpness and its curvature.

    Args:
      per_class_loss_fn: ``f(params, *batch)`` to floats of shape ``(num_classes,)``; a
        network with BatchNorm or dropout in evaluation mode.
      batches: tuples of arguments for ``f``, in a list or anything else that can be
        gone through again and again. ``None``: ``f`` takes the parameters alone.

    Raises:
      TypeError: if ``batches`` can be gone through only once.
      ValueError: when it is used, if there is no batch, or the losses are not 1-D.

    Example:
      >>> import jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> def f(w, x, y):
      ...     losses = (x @ w - y) ** 2
      ...     return fsam.per_class_losses(losses, y, num_classes=2) * len(y) / 4
      >>> x, y = jnp.eye(4), jnp.array([0, 0, 0, 1])
      >>> whole = fsam.sharpness.class_losses(f, [(x, y)])
      >>> parts = fsam.sharpness.class_losses(f, [(x[:3], y[:3]), (x[3:], y[3:])])
      >>> w = jnp.ones(4)
      >>> whole.values(w).tolist() == parts.values(w).tolist()
      True
    """
    if isinstance(batches, Iterator):
        raise TypeError(
            "batches must be a list, or anything that can be gone through again and "
            f"again, got {type(batches).__name__}, which ends after the first time: "
            "pass list(batches), or an object whose __iter__ starts anew."
        )

    def total(function):
        def of_all(params, *rest):
            so_far = None
            for batch in [()] if batches is None else batches:
                more = function(per_class_loss_fn, params, batch, *rest)
                so_far = more if so_far is None else jax.tree.map(jnp.add, so_far, more)
            if so_far is None:
                raise ValueError("there is no batch to measure the losses of.")
            return so_far

        return of_all

    return ClassLosses(total(_values), total(_gradient), total(_product))


# By the function itself, so that what was compiled for some batches serves others.
@partial(jax.jit, static_argnums=0)
def _values(loss_fn, params, batch):
    losses, _ = as_array_fn(loss_fn, None, has_aux=False)(params, *batch)
    return losses


def _weighted(loss_fn, params, batch, class_weights):
    return jnp.sum(class_weights * _values(loss_fn, params, batch))


@partial(jax.jit, static_argnums=0)
def _gradient(loss_fn, params, batch, class_weights):
    return jax.grad(_weighted, argnums=1)(loss_fn, params, batch, class_weights)


@partial(jax.jit, static_argnums=0)
def _product(loss_fn, params, batch, class_weights, vector):
    # Forward over reverse: one gradient and its derivative along the vector.
    def gradient(params):
        return jax.grad(_weighted, argnums=1)(loss_fn, params, batch, class_weights)

    return jax.jvp(gradient, (params,), (vector,))[1]


def one_hot(losses: ClassLosses, params: chex.ArrayTree) -> jax.Array:
    """Weights that single out each class in turn, ``(num_classes, num_classes)``."""
    values = jax.eval_shape(losses.values, params)
    return jnp.eye(values.shape[0], dtype=values.dtype)
