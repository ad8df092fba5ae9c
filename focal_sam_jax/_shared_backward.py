r"""Two gradients from one backward pass, for networks without cross-example layers.

Let :math:`\ell_j` be the loss of example j, and :math:`h_j = f(\theta, x_j)` the output
of a layer, which depends on that example alone. With
:math:`\delta_j = \partial L / \partial h_j` and
:math:`J_j = \partial h_j / \partial \theta`

.. math::
  \frac{\partial}{\partial h_j} \sum_c s_c L_c = s_{y_j} \delta_j, \qquad
  \nabla_\theta L = \sum_j J_j^T \delta_j, \qquad
  \nabla_\theta \sum_c s_c L_c = \sum_j J_j^T \big( s_{y_j} \delta_j \big)

One backward pass over the activations computes :math:`\delta` for both gradients. Only
the contraction with :math:`J_j^T`, which gives the parameter gradients, is done twice.
With BatchNorm in training mode the first equation does not hold.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn, TypeVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

X = TypeVar("X")


def apply_per_example(f: Callable[[Any, X], Any], theta: chex.ArrayTree, x: X) -> Any:
    r"""Computes ``f(theta, x)`` for an ``f`` that treats each example on its own.

    .. math:: h_j = f(\theta, x_j)

    A network without cross-example layers applies all its parameters through this
    function, layer by layer. :func:`focal_sam_jax.evaluate` with ``per_example=True``
    then needs one backward pass over the activations for both gradients at θ. In all
    other cases this function only calls ``f``.

    Operations without parameters, such as attention, can stay outside. Small functions
    share more work, because the inside of each ``f`` is differentiated twice. A scan
    over layers is one ``f``: the result is right, but nothing is saved.

    Args:
      f: function from parameters and inputs to outputs, all trees of arrays. Values
        that it closes over must not depend on parameters that are differentiated.
      theta: parameters, a tree of arrays; some of them may be frozen.
      x: inputs, a tree of arrays whose first axis is that of the examples.

    Returns:
      ``f(theta, x)``, whose arrays have the examples along the first axis too.

    Raises:
      ValueError: with ``per_example``, if the first axis of an input or output differs
        from that of the labels, or a parameter is used outside of this function.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import focal_sam_jax as fsam
      >>> x, y = jnp.ones((5, 3)), jnp.array([0, 0, 0, 0, 1])
      >>> def losses(params):
      ...     h = fsam.apply_per_example(lambda w, x: x @ w, params["in"], x)
      ...     h = fsam.apply_per_example(lambda w, h: h @ w, params["out"], jnp.tanh(h))
      ...     return fsam.losses.cross_entropy(h, y)
      >>> params = {"in": jnp.ones((3, 4)), "out": jnp.eye(4, 2)}
      >>> tx = fsam.focal_sam([4, 1])
      >>> here = fsam.evaluate(
      ...     losses, params, labels=y, num_classes=2, per_example=True)
      >>> updates, _ = tx.update(here.grads, tx.init(params), params, evaluation=here)
      >>> updates["in"].shape == params["in"].shape
      True
    """
    leaves, structure = jax.tree.flatten(theta)
    watched = [leaf for leaf in leaves if isinstance(leaf, Watched)]
    if not watched:
        # The copy costs nothing once compiled. It makes the cotangent of x from f one
        # sum, as below: XLA only merges sums that are added in the same order.
        return f(theta, jax.tree.map(jnp.copy, x))

    def applied(values, x):
        values = iter(values)
        given = [next(values) if isinstance(v, Watched) else v for v in leaves]
        return f(structure.unflatten(given), x)

    tape = watched[0].tape
    tape.check_examples("inputs", x)
    x = jax.tree.map(jnp.copy, x)
    values = [leaf.value for leaf in watched]
    out, pull = jax.vjp(lambda values: applied(values, x), values)
    tape.check_examples("outputs", out)
    return tape.record(out, pull, [leaf.index for leaf in watched])


class Watched:
    """A stand-in for a parameter during a pass with ``per_example``.

    JAX does not accept it as an array or a tree of arrays. Only
    :func:`apply_per_example` accepts it; any other use raises an error.
    """

    def __init__(self, value: jax.Array, index: int, tape: "Tape"):
        self.value, self.index, self.tape = value, index, tape

    def __getattr__(self, name: str) -> NoReturn:
        # JAX also calls this when it looks for a conversion to an array.
        self._refuse()

    def _refuse(self, *_: Any) -> NoReturn:
        # Not a TypeError, which jit would replace by its own TypeError.
        raise ValueError(
            "with per_example or per_example_labels, the loss function must use "
            "parameters only through focal_sam_jax.apply_per_example, got one used "
            "outside of it (or passed to a jitted, scanned or rematerialised "
            "function): use it for all parameters, or leave that argument out."
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __matmul__ = __rmatmul__ = _refuse
    __pow__ = __neg__ = __abs__ = __getitem__ = __iter__ = __len__ = _refuse


def unwatched(value: Any) -> Any:
    """Returns the parameter that a stand-in stands for; anything else as it is."""
    return value.value if isinstance(value, Watched) else value


class Tape:
    r"""The layers of a network, in the order in which they are applied.

    Each layer's output goes through a probe, whose gradient is :math:`\delta` there.

    Attributes:
      types: type of each layer's output.
      pulls: each layer's function from an output cotangent to parameter cotangents.
      indices: positions of each layer's parameters among all parameters.
    """

    def __init__(self, batch_size: int, probes: Iterator[Any] | None = None):
        self.batch_size, self._probes = batch_size, probes
        self.types: list[Any] = []
        self.pulls: list[Callable[[Any], Any]] = []
        self.indices: list[list[int]] = []

    def watch(self, leaves: list[jax.Array]) -> list[Watched]:
        """Wraps the parameters so that this tape records them."""
        return [Watched(leaf, index, self) for index, leaf in enumerate(leaves)]

    def record(self, out: Any, pull: Callable[[Any], Any], indices: list[int]) -> Any:
        """Records a layer and returns its output."""
        self.types.append(jax.tree.map(jax.typeof, out))
        self.pulls.append(pull)
        self.indices.append(indices)
        return out if self._probes is None else _probed(out, next(self._probes))

    def check_examples(self, what: str, tree: Any) -> None:
        """Raises unless all arrays have the examples along the first axis."""
        for leaf in jax.tree.leaves(tree):
            if np.shape(leaf)[:1] != (self.batch_size,):
                raise ValueError(
                    f"the {what} of a function given to "
                    f"focal_sam_jax.apply_per_example must have the {self.batch_size} "
                    "examples of the labels along the first axis, got shape "
                    f"{np.shape(leaf)}."
                )


@jax.custom_vjp
def _probed(out, probe):
    del probe
    return out


_probed.defvjp(lambda out, probe: (out, None), lambda _, delta: (delta, delta))


def contracted(
    leaves: list[jax.Array],
    pulls: list[Callable[[Any], Any]],
    indices: list[list[int]],
    deltas: list[Any],
    weights: jax.Array,
) -> list[jax.Array]:
    r"""Computes :math:`\sum_j J_j^T (w_j \delta_j)`, summed over a parameter's layers.

    Args:
      leaves: the network's parameters.
      pulls: as in :class:`Tape`.
      indices: as in :class:`Tape`.
      deltas: :math:`\delta` of each layer, like its output.
      weights: :math:`w`, shape ``(batch,)``.
    """
    sums = [jnp.zeros_like(leaf) for leaf in leaves]
    for pull, places, delta in zip(pulls, indices, deltas, strict=True):
        (gradients,) = pull(jax.tree.map(partial(_weigh, weights), delta))
        for place, gradient in zip(places, gradients, strict=True):
            sums[place] += gradient
    return sums


def _weigh(weights, delta):
    """Multiplies each example's cotangent by its weight, with one rounding."""
    if delta.dtype == jax.dtypes.float0:
        return delta
    weights = weights.reshape(-1, *[1] * (delta.ndim - 1))
    return (weights * delta).astype(delta.dtype)


def check_labels(name: str, labels: ArrayLike) -> jax.Array:
    """Checks the labels of a pass with ``per_example``, hard or soft."""
    try:
        labels = jnp.asarray(labels)
    except TypeError:
        labels = np.asarray(labels)  # for the error message
    hard = labels.ndim == 1 and jnp.issubdtype(labels.dtype, jnp.integer)
    soft = labels.ndim == 2 and jnp.issubdtype(labels.dtype, jnp.floating)
    if not (hard or soft):
        raise ValueError(
            f"{name} must be the class ids of the batch, ints of shape (batch,), or "
            f"soft labels, floats of shape (batch, num_classes), got {labels.dtype} of "
            f"shape {labels.shape}."
        )
    return jnp.asarray(labels)


def example_weights(class_weights: chex.Numeric, labels: jax.Array) -> jax.Array:
    r"""Returns :math:`s_{y_j}`, or its mean over soft labels, ``(batch,)``."""
    class_weights = jnp.asarray(class_weights)
    if labels.ndim == 2:
        # The cotangent of an example already contains the sum of its shares.
        shares = labels.astype(class_weights.dtype)
        total = jnp.sum(shares, axis=1)
        # Not a matrix product, whose factors GPUs and TPUs would round.
        mean = jnp.sum(shares * class_weights[None], axis=1)
        return mean / jnp.where(total == 0, 1, total)
    # Sharded like the labels, which JAX requires on explicit meshes.
    return class_weights.at[labels].get(out_sharding=jax.typeof(labels).sharding)
