r"""The loss and its gradients at a point, from one forward pass.

Every method computes one or two gradients at θ, :math:`\nabla L` and
:math:`\nabla \sum_c s_c L_c`. Both use the activations of one forward pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from focal_sam_jax._checks import check_params
from focal_sam_jax._class_weights import per_class_losses
from focal_sam_jax._devices import (
    AxisName,
    axis_names,
    check_axis_named,
    device_mean,
    per_device,
    share,
    zeros,
)
from focal_sam_jax._perturbation import widen
from focal_sam_jax._shared_backward import (
    Tape,
    check_labels,
    contracted,
    example_weights,
    unwatched,
)

PerClassLossFn = Callable[..., Any] | Sequence[Callable[..., chex.Numeric]]


@dataclass(frozen=True)
class Evaluation:
    r"""Loss and gradient of a batch, see :func:`evaluate`.

    Use it inside the traced function: it cannot be an argument or result of ``jit``.

    Attributes:
      loss: :math:`L(\theta)`, the mean over devices, ().
      grads: :math:`\nabla L(\theta)`, the mean over devices, like the parameters.
      losses: :math:`L_c(\theta)`, the mean over devices, shape ``(num_classes,)``.
      aux: this device's ``aux`` of the loss function; ``None`` without ``has_aux``.
    """

    loss: jax.Array
    grads: chex.ArrayTree
    losses: jax.Array
    aux: Any
    # For the transformations: the loss, the axis, and this device's forward pass.
    loss_fn: "Loss"
    axis_name: AxisName
    here: "Forward"


def evaluate(
    loss_fn: PerClassLossFn,
    params: chex.ArrayTree,
    *,
    labels: ArrayLike | None = None,
    num_classes: int | None = None,
    where: ArrayLike | None = None,
    has_aux: bool = False,
    axis_name: AxisName = None,
    per_example: bool = False,
) -> Evaluation:
    r"""Computes the loss and gradient of a batch for the optimizer and the method.

    .. math:: L(\theta) = \sum_c L_c(\theta), \qquad \nabla L(\theta)

    It replaces ``jax.value_and_grad`` in a training step. Pass the result to
    ``tx.update(here.grads, state, params, evaluation=here)``: the method reuses the
    forward pass and needs no other extra argument.

    Args:
      loss_fn: with ``labels``, a function from the parameters to the loss of every
        example, floats of the shape of ``labels`` without the class axis of soft ones.
        Without, a function from the parameters to the per-class losses :math:`L_c` of
        the batch, floats of shape ``(num_classes,)``, whose **sum** is the loss; or to
        a scalar, for methods that weight all classes equally, such as SAM. Or a
        sequence of functions to scalars, one per class.
      params: :math:`\theta`, a tree of float arrays.
      labels: class ids of examples, tokens or pixels, ints of any shape with at least
        one axis. Or soft labels, floats with one more axis, of size ``num_classes``.
        :func:`focal_sam_jax.per_class_losses` describes their use.
      num_classes: number of classes, a Python int; required with ``labels``.
      where: mask of the losses that count, bools of the shape of the losses; requires
        ``labels``.
      has_aux: whether the function returns ``(losses, aux)``.
      axis_name: the ``pmap`` or ``shard_map`` axis, or tuple of axes, over which the
        batch is split, as in the transformation. Loss and gradient are means over it,
        with or without ``check_vma`` of ``shard_map``; with ``where``, over all losses
        that count on any device.
      per_example: promises that no layer mixes examples, which is not checked, and that
        all parameters are applied by :func:`focal_sam_jax.apply_per_example`. One
        backward pass over the activations at θ then serves both gradients. Requires ids
        of shape ``(batch,)`` or soft labels of shape ``(batch, num_classes)``.

    Returns:
      An :class:`Evaluation`, with ``loss``, ``grads``, ``losses`` and ``aux``.

    Raises:
      ValueError: if the losses have the wrong shape, ``labels``, ``num_classes`` and
        ``where`` do not match, the losses differ between devices of an axis that is
        not in ``axis_name``, or with ``per_example`` a parameter is used outside of
        :func:`focal_sam_jax.apply_per_example`.
      TypeError: if ``loss_fn`` is not a function, returns other than floats, or returns
        a pair without ``has_aux`` or none with it, a parameter is not a real float,
        ``labels`` are neither ints nor soft labels, or ``where`` is not bools.

    Example:
      >>> import jax, jax.numpy as jnp, optax
      >>> import focal_sam_jax as fsam
      >>> x, y = jnp.eye(4), jnp.array([0, 0, 0, 1])
      >>> tx = optax.chain(fsam.focal_sam([3, 1], rho=0.1), optax.sgd(0.5))
      >>> @jax.jit
      ... def step(params, state):
      ...     def loss_fn(params):
      ...         return fsam.losses.cross_entropy(x @ params, y)
      ...     here = fsam.evaluate(loss_fn, params, labels=y, num_classes=2)
      ...     updates, state = tx.update(here.grads, state, params, evaluation=here)
      ...     return optax.apply_updates(params, updates), state, here.loss
      >>> params = jnp.zeros((4, 2))
      >>> params, state, before = step(params, tx.init(params))
      >>> params, state, after = step(params, state)
      >>> bool(after < before)
      True
    """
    if labels is None:
        loss = _without_labels(loss_fn, num_classes, where, has_aux, per_example)
    else:
        loss = _with_labels(
            loss_fn, labels, num_classes, where, has_aux, axis_name, per_example
        )
    return evaluation_of(loss, params, axis_name)


def evaluation_of(
    loss: "Loss", params: chex.ArrayTree, axis_name: AxisName
) -> Evaluation:
    """Evaluates a :class:`Loss`, see :func:`evaluate`."""
    here = forward(loss, params, axis_name)
    losses, grads = device_mean((here.losses, here.plain), axis_name)
    return Evaluation(
        loss=jnp.sum(losses),
        grads=grads,
        losses=losses,
        aux=here.aux,
        loss_fn=loss,
        axis_name=axis_name,
        here=here,
    )


# --- the loss function in a common form -----------------------------------------------


@dataclass(frozen=True)
class Loss:
    r"""The user's loss function in a common form.

    Attributes:
      raw: function from the parameters to ``(losses, aux)``; the losses are checked,
        and per class or per example.
      by_class: linear function from those losses to :math:`L_c`, shape
        ``(num_classes,)``.
      of_class: loss of each class, if the user gave a sequence of functions.
      labels: hard or soft labels, if it is promised that no layer mixes examples.
    """

    raw: Callable[[chex.ArrayTree], tuple[jax.Array, Any]]
    by_class: Callable[[jax.Array], jax.Array] = lambda losses: losses
    of_class: "tuple[Loss, ...] | None" = None
    labels: jax.Array | None = None

    def __call__(self, params: chex.ArrayTree) -> tuple[jax.Array, Any]:
        """Returns ``(per-class losses, aux)``, the losses in float32 or wider."""
        losses, aux = self.raw(params)
        return self.by_class(widen(losses)), aux


def as_loss(
    per_class_loss_fn: PerClassLossFn,
    num_classes: int | None,
    has_aux: bool = False,
    *,
    allow_scalar: bool = True,
) -> Loss:
    """Builds a :class:`Loss` from a function or a sequence of functions.

    Args:
      per_class_loss_fn: ``f(params)`` that returns per-class losses of shape
        ``(num_classes,)``, or with ``has_aux`` a pair ``(losses, aux)``; or a sequence
        of ``num_classes`` functions that return a scalar each.
      num_classes: number of classes, ``None`` for any number.
      has_aux: whether the function returns a pair.
      allow_scalar: whether a scalar counts as one class if ``num_classes`` is ``None``.

    Raises:
      ValueError: if a sequence has the wrong length or is given with ``has_aux``; when
        the function runs, if the losses have the wrong shape.
      TypeError: if there is no function; when it runs, if it does not return floats,
        or returns a pair without ``has_aux`` or none with it.
    """
    if _is_sequence(per_class_loss_fn):
        functions: Any = per_class_loss_fn
        if has_aux:
            raise ValueError(
                "has_aux=True needs one per_class_loss_fn that returns (losses, aux), "
                "got a sequence of functions."
            )
        if not functions or num_classes not in (None, len(functions)):
            wanted = f"each of the {num_classes} classes" if num_classes else "a class"
            raise ValueError(
                f"per_class_loss_fn must have one function for {wanted}, got "
                f"{len(functions)}."
            )
        of_class = tuple(Loss(partial(_stacked, (f,))) for f in functions)
        return Loss(partial(_stacked, functions), of_class=of_class)
    if not callable(per_class_loss_fn):
        raise TypeError(
            "the loss must be a function of the parameters (or a sequence of them), "
            f"got {type(per_class_loss_fn).__name__}; pass the function itself, not "
            "its value."
        )

    def raw(params):
        out = per_class_loss_fn(params)
        losses, aux = _split("per_class_loss_fn", out, has_aux)
        _check_floats("per-class losses", losses)
        if allow_scalar and num_classes is None and losses.ndim == 0:
            losses = losses[None]
        if losses.ndim != 1 or num_classes not in (None, losses.shape[0]):
            wanted = "(num_classes,)" if num_classes is None else f"({num_classes},)"
            raise ValueError(
                f"per_class_loss_fn must return one loss per class, shape {wanted}, "
                f"got shape {losses.shape}; did you take the mean? "
                "focal_sam_jax.per_class_losses sorts per-example losses by class, and "
                "so does focal_sam_jax.evaluate with labels."
            )
        return losses, aux

    return Loss(raw)


def bound(per_class_loss_fn: Any, *args: Any, **kwargs: Any) -> Any:
    """Binds the other arguments: returns functions of the parameters only."""

    def of_params(function):
        return lambda params: function(params, *args, **kwargs)

    if _is_sequence(per_class_loss_fn):
        return [of_params(function) for function in per_class_loss_fn]
    if not callable(per_class_loss_fn):
        return per_class_loss_fn  # as_loss raises for it
    return of_params(per_class_loss_fn)


def _is_sequence(value):
    return isinstance(value, Sequence) and not isinstance(value, str)


def _without_labels(loss_fn, num_classes, where, has_aux, per_example):
    if where is not None or per_example:
        name = "per_example" if where is None else "where"
        raise ValueError(
            f"{name} needs labels, got none: pass labels and num_classes, and a "
            "loss_fn that returns the loss of every example."
        )
    return as_loss(loss_fn, num_classes, has_aux)


def _hint(found, wanted, num_classes):
    """Returns what losses of a wrong shape may be, as the end of a sentence."""
    if found == ():
        return "; take no mean over the examples"
    if found == (*wanted, 1):
        return "; remove the last axis"
    if found == (*wanted, num_classes):
        return "; are these logits? They need a loss"
    if wanted == (*found, num_classes):
        return "; one-hot labels must be floats"
    return ""


def _with_labels(loss_fn, labels, num_classes, where, has_aux, axis_name, per_example):
    if num_classes is None:
        raise ValueError("labels need num_classes, the number of classes; got None.")
    if not callable(loss_fn):
        raise TypeError(
            "with labels, loss_fn must be one function of the parameters, got "
            f"{type(loss_fn).__name__}."
        )
    labels = jnp.asarray(labels)
    where = None if where is None else jnp.asarray(where)
    soft = jnp.issubdtype(labels.dtype, jnp.floating)
    if soft and labels.ndim < 2:
        raise ValueError(
            f"float labels are soft labels of shape (batch, {num_classes}), got shape "
            f"{labels.shape}; class ids must be ints."
        )
    shape = labels.shape[:-1] if soft else labels.shape

    def raw(params):
        losses, aux = _split("loss_fn", loss_fn(params), has_aux)
        _check_floats("per-example losses", losses)
        if losses.shape != shape:
            raise ValueError(
                "with labels, loss_fn must return the loss of every example, shape "
                f"{shape} like labels, got {losses.shape}"
                f"{_hint(losses.shape, shape, num_classes)}."
            )
        return losses, aux

    def by_class(losses):
        of_class = per_class_losses(losses, labels, num_classes, where=where)
        if where is None or axis_name is None:
            return of_class
        # The mean over devices then equals the mean over all losses that count.
        counted = jnp.sum(where, dtype=of_class.dtype)
        mean = device_mean(counted, axis_name)
        return of_class * (jnp.maximum(counted, 1) / jnp.where(mean > 0, mean, 1))

    promised = check_labels("with per_example, labels", labels) if per_example else None
    return Loss(raw, by_class, labels=promised)


def _stacked(functions, params):
    losses = [jnp.asarray(function(params)) for function in functions]
    for loss in losses:
        if loss.shape != ():
            raise ValueError(
                "each function in per_class_loss_fn must return a scalar, got shape "
                f"{loss.shape}."
            )
    stacked = jnp.stack(losses)
    _check_floats("per-class losses", stacked)
    return stacked, None


def _split(name: str, out: Any, has_aux: bool) -> tuple[Any, Any]:
    if not has_aux:
        if isinstance(out, tuple | list):
            raise TypeError(
                f"{name} must return an array of losses, got a {type(out).__name__} of "
                f"{len(out)}; if that is (losses, aux), pass has_aux=True."
            )
        return out, None
    if not (isinstance(out, tuple) and len(out) == 2):
        raise TypeError(
            f"with has_aux=True {name} must return (losses, aux), got "
            f"{type(out).__name__}."
        )
    return out


def _check_floats(name, losses):
    if not isinstance(losses, jax.Array):
        kind = type(losses).__name__
        raise TypeError(f"{name} must be a JAX array of floats, got {kind}.")
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        raise TypeError(f"{name} must be an array of floats, got {losses.dtype}.")


# --- the forward pass and its pullbacks -----------------------------------------------


@dataclass(frozen=True)
class Forward:
    r"""The loss at a point and its gradients there.

    Attributes:
      params: the point, typed per device.
      losses: :math:`L_c`, shape ``(num_classes,)``, float32 or wider.
      aux: ``aux`` of the loss function.
      pullback: function from weights :math:`w`, a scalar or shape ``(num_classes,)``,
        to this device's :math:`\nabla \sum_c w_c L_c`, a tree like ``params``.
    """

    params: chex.ArrayTree
    losses: jax.Array
    aux: Any
    pullback: Callable[[chex.Numeric], chex.ArrayTree]

    @cached_property
    def plain(self) -> chex.ArrayTree:
        r"""Computes this device's :math:`\nabla L`."""
        return self.pullback(1.0)

    def weighted(self, weights: chex.Numeric) -> chex.ArrayTree:
        r"""Computes this device's :math:`\nabla \sum_c w_c L_c`.

        A scalar weight multiplies :attr:`plain`.
        """
        if np.ndim(weights) > 0:
            return self.pullback(weights)
        return jax.tree.map(lambda g: weights * widen(g), self.plain)


def forward(loss: Loss, params: chex.ArrayTree, axis_name: AxisName) -> Forward:
    """Runs the forward pass once, for any number of pullbacks."""
    check_params(params)
    theta = per_device(jax.tree.map(jnp.asarray, params), axis_name)
    if loss.labels is not None:
        return _forward_per_example(loss, params, theta, axis_name)
    raw, vjp, aux = jax.vjp(loss.raw, theta, has_aux=True)
    losses, to_raw = jax.vjp(loss.by_class, widen(raw))
    cotangent = _cotangent(params, losses, axis_name, to_raw)

    def pullback(weights):
        return _exactly(vjp, cotangent(weights), raw.dtype, np.ndim(weights) == 0)[0]

    return Forward(theta, losses, aux, pullback)


def _forward_per_example(loss, params, theta, axis_name):
    leaves, structure = jax.tree.flatten(theta)
    batch_size = loss.labels.shape[0]

    # Runs on types only first: the probes must exist before the layers run.
    tape = Tape(batch_size)
    jax.eval_shape(
        lambda leaves: loss.raw(structure.unflatten(tape.watch(leaves)))[0], leaves
    )
    probes, indices = jax.tree.map(zeros, tape.types), tape.indices

    def watched(leaves, probes):
        tape = Tape(batch_size, iter(probes))
        losses, aux = loss.raw(structure.unflatten(tape.watch(leaves)))
        return losses, (jax.tree.map(unwatched, aux), tape.pulls)

    raw, vjp, (aux, pulls) = jax.vjp(watched, leaves, probes, has_aux=True)
    losses, to_raw = jax.vjp(loss.by_class, widen(raw))
    cotangent = _cotangent(params, losses, axis_name, to_raw)
    plain, deltas = _exactly(vjp, cotangent(1.0), raw.dtype, True)

    def pullback(weights):
        if np.ndim(weights) == 0:
            return structure.unflatten([_times(weights, leaf) for leaf in plain])
        weights = example_weights(weights, loss.labels)
        return structure.unflatten(contracted(leaves, pulls, indices, deltas, weights))

    return Forward(theta, losses, aux, pullback)


def _cotangent(params, losses, axis_name, to_raw):
    """Returns a function from class weights to the cotangent of the raw losses."""
    check_axis_named(params, losses, axis_name)
    devices = share(losses, axis_name)

    def cotangent(weights):
        weights = devices * jnp.asarray(weights, losses.dtype)
        return to_raw(weights * jnp.ones_like(losses))[0]

    return cotangent


def _exactly(vjp, cotangent, dtype, uniform):
    """Computes ``vjp(cotangent)`` without rounding the weights to ``dtype``.

    A cotangent in half precision has two or three digits. It is therefore passed in
    two parts: the rounded value and the remainder. ``uniform`` weights need one part,
    since scaling makes the largest cotangent a power of two. Small cotangents are
    scaled up, by 2^11 at most: otherwise the remainder could underflow in float16.
    """
    if jnp.finfo(dtype).bits >= 32:
        return vjp(cotangent.astype(dtype))
    largest = jnp.max(jnp.abs(cotangent), initial=0)
    mantissa, exponent = jnp.frexp(jax.lax.stop_gradient(largest))
    scale = jnp.ldexp(mantissa, jnp.clip(exponent, -10, 0))
    scale = jnp.where(mantissa > 0, scale, 1)
    fits = (cotangent / scale).astype(dtype)
    gradient = vjp(fits)
    if not uniform:
        left = (cotangent / scale - fits.astype(cotangent.dtype)).astype(dtype)
        gradient = jax.tree.map(_plus, gradient, vjp(left))
    return jax.tree.map(partial(_times, scale), gradient)


def _plus(a, b):
    return (widen(a) + widen(b)).astype(a.dtype)


def _times(factor, array):
    if array.dtype == jax.dtypes.float0:
        return array
    return (factor * widen(array)).astype(array.dtype)


def at_theta(
    evaluation: Evaluation | None,
    per_class_loss_fn: PerClassLossFn | None,
    params: chex.ArrayTree,
    num_classes: int | None,
    *,
    has_aux: bool,
    labels: ArrayLike | None,
    axis_name: AxisName,
) -> tuple[Forward, Loss]:
    r"""Returns the forward pass at θ and the loss at θ + ε.

    The forward pass is that of ``evaluation`` if given. The loss is
    ``per_class_loss_fn`` if given, else that of ``evaluation``.

    Raises:
      TypeError: if ``evaluation`` is not an :class:`Evaluation`.
      ValueError: if its parameters, number of classes or ``axis_name`` differ.
    """
    labels = None if labels is None else check_labels("per_example_labels", labels)
    loss = None
    if per_class_loss_fn is not None:
        loss = as_loss(per_class_loss_fn, num_classes, has_aux)
    if evaluation is None:
        assert loss is not None  # checked by check_composition
        # With one weight for all classes, one gradient at θ is enough.
        shared = replace(loss, labels=None if num_classes is None else labels)
        return forward(shared, params, axis_name), loss
    if not isinstance(evaluation, Evaluation):
        raise TypeError(
            "evaluation must be the result of focal_sam_jax.evaluate(loss_fn, params), "
            f"got {type(evaluation).__name__}."
        )
    if _forms(evaluation.grads) != _forms(params):
        raise ValueError(
            "evaluation must be of the parameters passed to update, got one of "
            f"{jax.tree.structure(evaluation.grads)} for {jax.tree.structure(params)}, "
            "or of arrays with other shapes or dtypes."
        )
    found = evaluation.losses.shape
    if num_classes not in (None, found[0]):
        hint = "take the mean" if found == (1,) else "leave out labels"
        raise ValueError(
            f"evaluation must have {num_classes} classes, like class_counts, weights "
            f"or groups, got {found[0]}; did you {hint}? Call evaluate(loss_fn, "
            f"params, labels=labels, num_classes={num_classes}), with a loss_fn that "
            "returns the loss of every example."
        )
    if axis_names(evaluation.axis_name) != axis_names(axis_name):
        raise ValueError(
            "evaluate and the transformation must be given the same axis_name, got "
            f"{evaluation.axis_name!r} and {axis_name!r}."
        )
    return evaluation.here, replace(loss or evaluation.loss_fn, labels=None)


def _forms(tree):
    # Only leaves: a wrapper such as nnx.Optimizer may have changed the containers.
    return [
        (leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype))
        for leaf in jax.tree.leaves(tree)
    ]
