"""What users hand over, a function or a list of them, as one function of one form."""

from collections.abc import Callable, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp

PerClassLossFn = Callable[..., Any] | Sequence[Callable[..., chex.Numeric]]
ArrayFn = Callable[..., tuple[jax.Array, Any]]


def as_array_fn(
    per_class_loss_fn: PerClassLossFn, num_classes: int | None, has_aux: bool
) -> ArrayFn:
    """The same function, returning ``(losses, aux)`` and refusing anything else.

    Args:
      per_class_loss_fn: ``f(params, ...)`` that returns per-class losses of shape
        ``(num_classes,)``, or with ``has_aux`` a pair of those and anything; or a
        sequence of ``num_classes`` functions that return a scalar each.
      num_classes: the number of classes, ``None`` if any will do.
      has_aux: whether the function returns a pair.

    Returns:
      A function with the same arguments that returns ``(losses, aux)``, with
      ``aux = None`` without ``has_aux``.

    Raises:
      ValueError: if a sequence has the wrong length or comes with ``has_aux``; and,
        when the function runs, if the losses have the wrong shape.
      TypeError: if there is no function; and, when it runs, if it returns no floats, a
        pair without ``has_aux``, or no pair with it.
    """
    if isinstance(per_class_loss_fn, Sequence):
        return _stacked(per_class_loss_fn, num_classes, has_aux)
    if not callable(per_class_loss_fn):
        raise TypeError(
            "per_class_loss_fn must be a function of the parameters (or a sequence of "
            f"them), got {type(per_class_loss_fn).__name__}; pass the function itself, "
            "not its value."
        )

    def array_fn(*args, **kwargs):
        out = per_class_loss_fn(*args, **kwargs)
        losses, aux = _split(out, has_aux)
        _check_losses(losses, num_classes)
        return losses, aux

    return array_fn


def each_as_array_fn(functions: Sequence[Callable[..., chex.Numeric]]) -> list[ArrayFn]:
    """The functions of a sequence, each as one that returns a single class."""
    return [_stacked([function], 1, has_aux=False) for function in functions]


def _stacked(functions, num_classes, has_aux):
    if has_aux:
        raise ValueError(
            "has_aux=True needs one per_class_loss_fn that returns (losses, aux), got "
            "a sequence of functions."
        )
    if not functions or (num_classes is not None and len(functions) != num_classes):
        raise ValueError(
            f"per_class_loss_fn must have one function for each of the "
            f"{num_classes or ''} classes, got {len(functions)}."
        )

    def array_fn(*args, **kwargs):
        losses = [jnp.asarray(function(*args, **kwargs)) for function in functions]
        for loss in losses:
            if loss.shape != ():
                raise ValueError(
                    "each function in per_class_loss_fn must return a scalar, got "
                    f"shape {loss.shape}."
                )
        losses = jnp.stack(losses)
        _check_losses(losses, len(functions))
        return losses, None

    return array_fn


def _split(out, has_aux):
    if not has_aux:
        if isinstance(out, tuple | list):
            raise TypeError(
                "per_class_loss_fn must return an array of per-class losses, got a "
                f"{type(out).__name__} of {len(out)}; if that is (losses, aux), pass "
                "has_aux=True."
            )
        return out, None
    if not (isinstance(out, tuple) and len(out) == 2):
        raise TypeError(
            "with has_aux=True per_class_loss_fn must return (losses, aux), got "
            f"{type(out).__name__}."
        )
    return out


def _check_losses(losses, num_classes):
    if not isinstance(losses, jax.Array) or not jnp.issubdtype(
        losses.dtype, jnp.floating
    ):
        kind = getattr(losses, "dtype", type(losses).__name__)
        raise TypeError(f"per-class losses must be an array of floats, got {kind}.")
    wanted = "(num_classes,)" if num_classes is None else f"({num_classes},)"
    if losses.ndim != 1 or num_classes not in (None, losses.shape[0]):
        raise ValueError(
            f"per_class_loss_fn must return one loss per class, shape {wanted}, got "
            f"shape {losses.shape}; did you take the mean? "
            "focal_sam_jax.per_class_losses sorts per-example losses by class."
        )
