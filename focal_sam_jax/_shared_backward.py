r"""Two gradients from one backward pass, where no layer mixes examples.

Let :math:`\ell_j` be the loss of example j and :math:`h_j` what a layer
:math:`h_j = f(\theta, x_j)` made of that example alone. With
:math:`\delta_j = \partial L / \partial h_j`

.. math::
  \frac{\partial}{\partial h_j} \sum_c s_c L_c = s_{y_j} \delta_j, \qquad
  \nabla_\theta L = \sum_j J_j^T \delta_j, \qquad
  \nabla_\theta \sum_c s_c L_c = \sum_j J_j^T \big( s_{y_j} \delta_j \big)

so one pass over the activations, which computes :math:`\delta`, serves both gradients,
and only the contraction that makes the gradient of a parameter is done twice.
BatchNorm in training mixes examples: there the first equation does not hold.
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
    r"""``f(theta, x)``, for an ``f`` that treats every example by itself.

    .. math:: h_j = f(\theta, x_j)

    A network whose layers do not mix examples says so by this function: it applies its
    parameters through it, layer by layer. With ``per_example=True``
    :func:`focal_sam_jax.evaluate` then needs one backward pass over the activations for
    both gradients at θ. Everywhere else it is the plain call.

    Layers without parameters, attention among them, need no mention. The smaller the
    functions, the more is shared: what stands inside of one ``f`` is differentiated
    twice. A scan over layers is one ``f``: the result is right, and nothing is saved.

    Args:
      f: from parameters and inputs to outputs, trees of arrays. What it takes from
        around it must not depend on parameters that are being differentiated.
      theta: parameters, a tree of arrays; some of them may be frozen.
      x: inputs, a tree of arrays whose first axis is that of the examples.

    Returns:
      ``f(theta, x)``, whose arrays have the examples along the first axis too.

    Raises:
      ValueError: in a shared pass, if an input or output has another first axis than
        the labels, or a parameter is used anywhere else.

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
        # A copy costs nothing once compiled, and makes what f sends back to x one sum,
        # as it is below: the compiler merges only what is added in the same order.
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
    """A parameter in a network that promised to treat every example by itself.

    To JAX it is no array and no tree of arrays: only :func:`apply_per_example` knows
    what to do with it, and everything else refuses it.
    """

    def __init__(self, value: jax.Array, index: int, tape: "Tape"):
        self.value, self.index, self.tape = value, index, tape

    def __getattr__(self, name: str) -> NoReturn:
        # Also JAX's question whether this can be turned into an array.
        self._refuse()

    def _refuse(self, *_: Any) -> NoReturn:
        # Not a TypeError, which jit would replace by one of its own.
        raise ValueError(
            "the loss function promised to treat every example by itself, and uses a "
            "parameter outside of focal_sam_jax.apply_per_example (or hands it to a "
            "jitted, scanned or rematerialised function): apply all parameters through "
            "it, or leave out per_example, or per_example_labels."
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _refuse
    __truediv__ = __rtruediv__ = __matmul__ = __rmatmul__ = _refuse
    __pow__ = __neg__ = __abs__ = __getitem__ = __iter__ = __len__ = _refuse


class Tape:
    r"""The layers of a network, in the order in which they are applied.

    A layer's output passes a probe, whose gradient is :math:`\delta` at that layer.

    Attributes:
      types: of each layer's output.
      pulls: of each layer, from a cotangent of its output to those of its parameters.
      indices: of each layer's parameters among all of the network's.
    """

    def __init__(self, batch_size: int, probes: Iterator[Any] | None = None):
        self.batch_size, self._probes = batch_size, probes
        self.types: list[Any] = []
        self.pulls: list[Callable[[Any], Any]] = []
        self.indices: list[list[int]] = []

    def watch(self, leaves: list[jax.Array]) -> list[Watched]:
        """The parameters, for this tape to hear of."""
        return [Watched(leaf, index, self) for index, leaf in enumerate(leaves)]

    def record(self, out: Any, pull: Callable[[Any], Any], indices: list[int]) -> Any:
        """Keeps a layer, and passes its output on."""
        self.types.append(jax.tree.map(jax.typeof, out))
        self.pulls.append(pull)
        self.indices.append(indices)
        return out if self._probes is None else _probed(out, next(self._probes))

    def check_examples(self, what: str, tree: Any) -> None:
        """Raises unless all arrays have the examples along the first axis."""
        for leaf in jax.tree.leaves(tree):
            if np.shape(leaf)[:1] != (self.batch_size,):
                raise ValueError(
                    f"the {what} of a function given to focal_sam_jax."
                    "apply_per_example must have the examples along the first axis, "
                    f"{self.batch_size} as the labels have, got shape "
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
    r""":math:`\sum_j J_j^T (w_j \delta_j)`, summed over the layers of each parameter.

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
    """Every example's cotangent times its weight, the product rounded only once."""
    if delta.dtype == jax.dtypes.float0:
        return delta
    weights = weights.reshape(-1, *[1] * (delta.ndim - 1))
    return (weights * delta).astype(delta.dtype)


def check_labels(name: str, labels: ArrayLike) -> jax.Array:
    """The labels of the examples, hard or soft, of a network that does not mix them."""
    try:
        labels = jnp.asarray(labels)
    except TypeError:
        labels = np.asarray(labels)  # to say what it is
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
    r""":math:`s_{y_j}`, or the mean of :math:`s` over soft labels, ``(batch,)``."""
    class_weights = jnp.asarray(class_weights)
    if labels.ndim == 2:
        # The cotangent of an example has the sum of its shares as a factor already.
        shares = labels.astype(class_weights.dtype)
        total = jnp.sum(shares, axis=1)
        return shares @ class_weights / jnp.where(total == 0, 1, total)
    # Split over devices as the labels are, which JAX asks for on explicit meshes.
    return class_weights.at[labels].get(out_sharding=jax.typeof(labels).sharding)
