r"""The losses of a whole data set, class by class, and the loops that measure them.

All measures are of a weighted sum :math:`\sum_c s_c L_c(\theta)`: one class, a group,
or all. The weights are an argument, so that one compiled function serves all classes.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple, TypeVar

import chex
import jax
import jax.numpy as jnp

from focal_sam_jax._checks import (
    ClassValues,
    check_class_weights,
    check_params,
    is_concrete,
)
from focal_sam_jax._evaluation import PerClassLossFn, as_loss, bound

Batches = Iterable[tuple[Any, ...]] | None
Carry = TypeVar("Carry")


class ClassLosses:
    r"""Result of :func:`class_losses`; :math:`L_c` in the docstrings of this module.

    It owns its compiled functions, which are freed with it. Its methods raise a
    ``ValueError`` if there is no batch, or the losses are not 1-D.
    """

    def __init__(self, compiled: "_Compiled", batches: Batches):
        if isinstance(batches, Iterator):
            raise TypeError(
                "batches must be a list, or an object that can be iterated many times, "
                f"got {type(batches).__name__}, which can be iterated only once: pass "
                "list(batches), or an object whose __iter__ returns a new iterator."
            )
        self._compiled, self._batches = compiled, batches

    def over(self, batches: Batches) -> "ClassLosses":
        """Returns the same losses of other batches, without compiling them again."""
        return ClassLosses(self._compiled, batches)

    def values(self, params: chex.ArrayTree) -> jax.Array:
        """Computes :math:`L_c`, float, shape ``(num_classes,)``."""
        return self._total(self._compiled.values, params)

    def gradient(
        self, params: chex.ArrayTree, class_weights: chex.Numeric
    ) -> chex.ArrayTree:
        r"""Computes :math:`\nabla \sum_c s_c L_c`, a tree like the parameters.

        Args:
          params: :math:`\theta`.
          class_weights: :math:`s`, a scalar or shape ``(num_classes,)``.
        """
        return self._total(self._compiled.gradient, params, _array(class_weights))

    def product(
        self,
        params: chex.ArrayTree,
        class_weights: chex.Numeric,
        vector: chex.ArrayTree,
    ) -> chex.ArrayTree:
        r"""Computes :math:`\nabla^2 \big(\sum_c s_c L_c\big) v`, like the parameters.

        Args:
          params: :math:`\theta`.
          class_weights: :math:`s`, a scalar or shape ``(num_classes,)``.
          vector: :math:`v`, a tree like the parameters.
        """
        weights = _array(class_weights)
        return self._total(self._compiled.product, params, weights, vector)

    def _total(self, function, params, *rest):
        check_params(params)
        so_far = None
        for batch in [()] if self._batches is None else self._batches:
            if not isinstance(batch, tuple | list):
                raise TypeError(
                    "each batch must be a tuple of arguments of the loss function, got "
                    f"{type(batch).__name__}: for one argument x pass (x,)."
                )
            more = function(params, batch, *rest)
            so_far = more if so_far is None else jax.tree.map(jnp.add, so_far, more)
        if so_far is None:
            raise ValueError("batches must contain at least one batch, got none.")
        return so_far


def class_losses(
    per_class_loss_fn: PerClassLossFn, batches: Batches = None
) -> ClassLosses:
    r"""Builds the losses to measure, of one batch or of the sum over many.

    .. math::
      L_c(\theta) = \sum_k f_c(\theta, \text{batch}_k)

    Batches are processed one after the other. Outside of ``jit`` each is one call of a
    compiled function, memory does not grow with their number, and they may come from
    disk; inside of ``jit`` they are all part of one program. Arrays that are sharded
    over devices stay sharded, as in training under ``jit``.

    For the mean over a set of N examples, ``f`` divides the sums of its batch by N:
    ``fsam.per_class_losses(losses, y, num_classes) * len(y) / N``. For the mean over
    the examples of one class, divide by the class's share of the set,
    :math:`L_c / \pi_c`, and its sharpness and curvature likewise.

    Args:
      per_class_loss_fn: ``f(params, *batch)`` that returns floats of shape
        ``(num_classes,)``, or a sequence of functions to scalars, one per class.
        BatchNorm and dropout must be in evaluation mode.
      batches: tuples of arguments for ``f``, ``(x,)`` for one argument, in a list or
        another repeatable iterable. ``None``: ``f`` takes the parameters only.

    Returns:
      The losses. ``losses.over(other_batches)`` are those of other batches, by the same
      compiled functions.

    Raises:
      TypeError: if ``batches`` is an iterator, which can be used only once; when the
        losses are used, if a batch is not a tuple.
      ValueError: when the losses are used, if there is no batch or they are not 1-D.

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
    return ClassLosses(_compile(per_class_loss_fn), batches)


class _Compiled(NamedTuple):
    """Compiled functions for a batch's part of the values, gradient and product."""

    values: Callable[..., jax.Array]
    gradient: Callable[..., chex.ArrayTree]
    product: Callable[..., chex.ArrayTree]


def _compile(per_class_loss_fn: PerClassLossFn) -> _Compiled:
    def values(params, batch):
        function = bound(per_class_loss_fn, *batch)
        return as_loss(function, None, allow_scalar=False)(params)[0]

    def weighted(params, batch, class_weights):
        return weighted_sum(class_weights, values(params, batch))

    gradient = jax.grad(weighted)

    def product(params, batch, class_weights, vector):
        # Forward over reverse: one gradient and its derivative along the vector.
        def of_params(params):
            return gradient(params, batch, class_weights)

        return jax.jvp(of_params, (params,), (vector,))[1]

    return _Compiled(jax.jit(values), jax.jit(gradient), jax.jit(product))


def weighted_sum(class_weights: ClassValues, values: jax.Array) -> jax.Array:
    r"""Computes :math:`\sum_c s_c L_c` for a scalar weight or one weight per class."""
    weights = _array(class_weights)
    if weights.shape not in ((), values.shape):
        raise ValueError(
            f"class_weights must be a scalar or have shape {values.shape}, got shape "
            f"{weights.shape}."
        )
    return jnp.sum(weights.astype(values.dtype) * values)


def _array(class_weights):
    check_class_weights(class_weights)
    return jnp.asarray(class_weights, float)


def one_hot(losses: ClassLosses, params: chex.ArrayTree) -> jax.Array:
    """Returns weights that select one class each, ``(num_classes, num_classes)``."""
    batches = losses._batches
    first = losses if batches is None else losses.over([*islice(batches, 1)])
    values = jax.eval_shape(first.values, params)
    return jnp.eye(values.shape[0], dtype=values.dtype)


# --- loops ----------------------------------------------------------------------------

# On the host every turn calls compiled functions, and may read batches from disk. This
# also avoids convolutions inside of XLA's loops, which on CPU run many times slower
# than outside.


def repeat(turns: int, body: Callable[[Any, Carry], Carry], carry: Carry) -> Carry:
    """Runs ``carry = body(turn, carry)`` for every turn."""
    if not is_concrete(carry):
        return jax.lax.fori_loop(0, turns, body, carry)
    for turn in range(turns):
        carry = body(turn, carry)
    return carry


def each(function: Callable[[Any], Any], inputs: Any, *around: Any) -> Any:
    """Returns the stacked results of ``function`` for every row of ``inputs``.

    Args:
      function: function of a row, a tree.
      inputs: a tree of arrays with one leading axis.
      around: other values that the function uses; traced ones also move the loop to
        the device.
    """
    if not is_concrete((inputs, around)):
        return jax.lax.map(function, inputs)
    rows = zip(*jax.tree.leaves(inputs), strict=True)
    structure = jax.tree.structure(inputs)
    results = [function(structure.unflatten(row)) for row in rows]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)


class Estimate(NamedTuple):
    """A mean over random draws.

    Attributes:
      mean: float array.
      standard_error: standard error of the mean, same shape; NaN for a single draw.
    """

    mean: jax.Array
    standard_error: jax.Array


def estimate(draws: jax.Array) -> Estimate:
    """Computes the mean over the first axis and its standard error."""
    number = draws.shape[0]
    if number == 1:
        return Estimate(draws[0], jnp.full_like(draws[0], jnp.nan))
    error = jnp.std(draws, axis=0, ddof=1) / number**0.5
    return Estimate(jnp.mean(draws, axis=0), error)
