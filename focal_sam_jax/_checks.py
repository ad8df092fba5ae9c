"""Checks of user input.

Values are checked if they are concrete. A traced value has only a shape and a dtype, so
only these are checked: schedules and ``optax.inject_hyperparams`` keep working.
"""

import inspect
import math
import warnings
from collections.abc import Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.typing import ArrayLike

# One number for each class.
ClassValues = ArrayLike | Sequence[float]


def at_least_float32(dtype: Any) -> Any:
    """Returns JAX's canonical form of ``dtype``, or float32 if it has fewer bits.

    ``jnp.promote_types`` would fail under strict dtype promotion.
    """
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype


def is_concrete(value: Any) -> bool:
    """Returns whether ``value`` is not traced, so that its numbers can be read."""
    return not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value))


def _warn(message: str) -> None:
    """Warns at the user's line: Python shows each line's warning once."""
    level, ours = 0, ("focal_sam_jax.", "jax.")
    for frame in _frames():  # of which the first is that of the generator
        if not f"{frame.f_globals.get('__name__')}.".startswith(ours):
            break
        level += 1
    warnings.warn(message, stacklevel=level)


def _is_real(value: Any) -> bool:
    dtype = np.asarray(value).dtype
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)


# --- numbers --------------------------------------------------------------------------


def check_scalar(
    name: str,
    value: Any,
    *,
    high: float = math.inf,
    above: bool = False,
    below: bool = False,
) -> None:
    """Raises unless ``value`` is one finite number between 0 and ``high``.

    Zero and ``high`` are allowed unless ``above`` or ``below`` excludes them. Raises
    ``ValueError`` for a wrong number or shape, ``TypeError`` if it is not a number.
    """
    wanted = f"a finite number {'>' if above else '>='} 0"
    if high < math.inf:
        wanted += f" and {'<' if below else '<='} {high:g}"
    if callable(value):
        raise TypeError(
            f"{name} must be {wanted}, got the function {value!r}. A schedule is "
            "accepted for the rho, class weights and radii of the Optax transforms "
            "only: elsewhere call it with the step and pass the result."
        )
    if np.shape(value) != ():
        raise ValueError(f"{name} must be {wanted}, got shape {np.shape(value)}.")
    if not is_concrete(value):
        return
    if not _is_real(value):
        raise TypeError(f"{name} must be {wanted}, got {value!r}.")
    number = float(value)
    too_low = number <= 0 if above else number < 0
    too_high = number >= high if below else number > high
    if not math.isfinite(number) or too_low or too_high:
        raise ValueError(f"{name} must be {wanted}, got {value}.")


def check_at_least(name: str, value: int, low: int) -> None:
    """Raises ``ValueError`` unless ``value`` is a whole number of at least ``low``."""
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < low:
        raise ValueError(
            f"{name} must be a whole number of at least {low}, got {value!r}."
        )


def check_rho(rho: Any, name: str = "rho") -> None:
    """Raises unless ``rho`` is a valid radius or a schedule."""
    if not callable(rho):
        check_scalar(name, rho)


# --- classes --------------------------------------------------------------------------


def as_class_values(values: Any) -> Any:
    """Returns a list of traced numbers as one array, and anything else as it is."""
    if isinstance(values, list | tuple) and not is_concrete(values):
        return jnp.stack([jnp.asarray(value, float) for value in values])
    return values


def check_class_counts(
    class_counts: ClassValues, *, allow_single_class: bool = False
) -> None:
    """Raises unless ``class_counts`` are valid counts of training examples.

    They must have shape ``(num_classes,)``, be finite and not negative, and have
    examples in at least two classes. ``allow_single_class`` also accepts shape
    ``(1,)``. Warns if the counts look like labels.
    """
    shape = np.shape(class_counts)
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(
            "class_counts must be a 1-D array with the number of training examples of "
            f"each class, shape (num_classes,), got shape {shape} of type "
            f"{type(class_counts).__name__}."
        )
    if not is_concrete(class_counts):
        return
    if not _is_real(class_counts):
        raise TypeError(f"class_counts must be numbers, got {class_counts!r}.")
    counts = np.asarray(class_counts, dtype=np.float64)
    if not np.all(np.isfinite(counts)) or np.any(counts < 0):
        raise ValueError(
            f"class_counts must be finite and not negative, got {class_counts}."
        )
    classes = counts.max() + 1
    if counts.min() == 0 and counts.size >= 5 * classes:
        _warn(
            f"class_counts look like labels: {counts.size} numbers from 0 to "
            f"{counts.max():g}. If they are, pass numpy.bincount(labels)."
        )
    if np.count_nonzero(counts) < 2 and not (allow_single_class and counts.size == 1):
        raise ValueError(
            "class_counts must have examples in at least two classes, got "
            f"{class_counts}: with all data in one class there is no tail to weigh."
        )


def check_class_weights(class_weights: ClassValues) -> None:
    """Raises unless ``class_weights`` is finite: a scalar or one number per class."""
    if np.ndim(class_weights) > 1 or np.size(class_weights) == 0:
        raise ValueError(
            "class_weights must be a scalar or have shape (num_classes,), got shape "
            f"{np.shape(class_weights)}."
        )
    if is_concrete(class_weights):
        if not _is_real(class_weights):
            raise TypeError(f"class_weights must be numbers, got {class_weights!r}.")
        if not np.all(np.isfinite(np.asarray(class_weights, np.float64))):
            raise ValueError(f"class_weights must be finite, got {class_weights}.")


def warn_of_counts(class_weights: ClassValues) -> None:
    """Warns if ``class_weights`` look like class counts."""
    if is_concrete(class_weights) and np.ndim(class_weights):
        weights = np.asarray(class_weights)
        if weights.dtype.kind in "iu" and weights.max() > 1:
            _warn(
                f"class_weights look like class counts: {class_weights}. If they are, "
                "pass focal_sam_jax.focal_weights(class_counts, gamma)."
            )


def check_radii(name: str, radii: ClassValues) -> None:
    """Raises unless ``radii`` holds one finite, non-negative number per group."""
    if np.ndim(radii) != 1 or np.size(radii) == 0:
        raise ValueError(
            f"{name} must have one radius per class, shape (num_classes,), or one per "
            f"group of classes, got shape {np.shape(radii)}; "
            "focal_sam_jax.cc_sam_radii computes them from counts."
        )
    if is_concrete(radii):
        if not _is_real(radii):
            raise TypeError(f"{name} must be numbers, got {radii!r}.")
        values = np.asarray(radii, dtype=np.float64)
        if not np.all(np.isfinite(values)) or np.any(values < 0):
            raise ValueError(f"{name} must be finite and >= 0, got {radii}.")


def check_groups(groups: Any) -> None:
    """Raises unless ``groups`` holds a group index per class and is not traced."""
    if not is_concrete(groups):
        raise TypeError(
            "groups must be known when the transformation is built, got a traced "
            'array; under optax.inject_hyperparams pass static_args="groups".'
        )
    array = np.asarray(groups)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(
            "groups must give the group of every class, ints of shape (num_classes,), "
            f"got shape {array.shape}."
        )
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"groups must be ints, got {array.dtype}.")
    if np.any(array < 0):
        raise ValueError(f"groups must be numbered from 0, got {groups}.")


# --- parameters -----------------------------------------------------------------------


def check_params(params: chex.ArrayTree) -> None:
    """Raises ``TypeError`` unless every leaf is an array of real floats."""
    if params is None:
        raise TypeError("parameters must be arrays of floats, got None.")
    for path, leaf in jax.tree.leaves_with_path(params):
        where = jax.tree_util.keystr(path) or "the root"
        if isinstance(leaf, float):
            raise TypeError(
                f"parameters must be arrays of floats, got the number {leaf} at "
                f"{where}: make it an array with jnp.asarray."
            )
        dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
        if jnp.issubdtype(dtype, jnp.floating):
            continue
        if jnp.issubdtype(dtype, jnp.complexfloating):
            raise TypeError(
                f"parameters must be real floats, got {dtype} at {where}: keep real "
                "and imaginary parts in two arrays, and join them inside the loss with "
                "jax.lax.complex."
            )
        raise TypeError(
            f"parameters must be floats, got {dtype} at {where}: split off the "
            "trainable ones, for instance with flax.nnx.split(model, nnx.Param, ...), "
            "and let the loss function close over the rest."
        )


# --- logits and labels ----------------------------------------------------------------


def check_batch(logits: ArrayLike, labels: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Checks a batch of logits and its class ids.

    Returns:
      The logits in float32 or wider, and the one-hot labels as bools; both of shape
      ``(batch, num_classes)``.
    """
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if logits.ndim != 2:
        raise ValueError(
            f"logits must have shape (batch, num_classes), got {logits.shape}; reshape "
            "them, for instance with logits.reshape(-1, num_classes)."
        )
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise TypeError(f"logits must be floats, got {logits.dtype}; convert them.")
    if labels.shape != logits.shape[:1]:
        raise ValueError(
            f"labels must have shape (batch,), here {logits.shape[:1]}, got "
            f"{labels.shape}; for one-hot labels pass labels.argmax(-1)."
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"labels must be ints, got {labels.dtype}; pass class ids.")
    _warn_of_labels_from_one(labels, logits.shape[1], None)
    logits = logits.astype(at_least_float32(logits.dtype))
    classes = jnp.arange(logits.shape[1], dtype=jnp.int32)
    return logits, labels.astype(jnp.int32)[:, None] == classes[None, :]


def _warn_of_labels_from_one(
    labels: jax.Array, num_classes: int, where: jax.Array | None
) -> None:
    """Warns if a label equals ``num_classes`` and the labels are not traced."""
    if not is_concrete((labels, where)) or not labels.is_fully_addressable:
        return
    beyond = np.asarray(labels) == num_classes
    if where is not None and where.shape == labels.shape:
        beyond &= np.asarray(where, bool)
    if np.any(beyond):
        _warn(
            f"labels contain {num_classes}, and the {num_classes} classes are numbered "
            "from 0: such examples belong to no class. If your labels start from 1, "
            "subtract 1; to leave these examples out, pass where."
        )


def check_per_class(
    name: str, values: ClassValues, num_classes: int | None = None
) -> jax.Array:
    """Raises unless ``values`` are finite, >= 0, not all zero and one per class.

    Returns:
      The values as floats, shape ``(num_classes,)``.
    """
    array = jnp.asarray(values, dtype=float)
    if array.ndim != 1 or num_classes not in (None, array.size):
        raise ValueError(
            f"{name} must have shape ({num_classes or 'num_classes'},), got "
            f"{array.shape}; pass one number for every column of the logits."
        )
    if not is_concrete(values):
        return array
    looked_at = np.asarray(values, dtype=float)
    if not (np.all((looked_at >= 0) & (looked_at < np.inf)) and np.any(looked_at)):
        raise ValueError(
            f"{name} must be finite, >= 0 and not all zero, got {looked_at.tolist()}."
        )
    return array


def check_per_example(
    losses: jax.Array, labels: jax.Array, num_classes: int, where: jax.Array | None
) -> None:
    """Raises unless the shapes and dtypes of losses, labels and ``where`` match."""
    if losses.ndim == 0:
        raise ValueError(
            "losses must have one entry per example, shape (batch,), got "
            f"{losses.shape}; did you take the mean?"
        )
    if not jnp.issubdtype(losses.dtype, jnp.floating):
        raise TypeError(f"losses must be floats, got {losses.dtype}.")
    check_at_least("num_classes", num_classes, 1)
    soft = jnp.issubdtype(labels.dtype, jnp.floating) and labels.ndim > losses.ndim
    if soft and labels.shape != (*losses.shape, num_classes):
        raise ValueError(
            "soft labels must have the shape of losses and one axis for the classes, "
            f"{(*losses.shape, num_classes)}, got {labels.shape}."
        )
    if not (soft or jnp.issubdtype(labels.dtype, jnp.integer)):
        raise TypeError(
            f"labels must be ints, got {labels.dtype} of shape {labels.shape}; soft "
            "labels are floats with one more axis than the losses."
        )
    if not soft and labels.shape != losses.shape:
        raise ValueError(
            f"labels must have the shape of losses, {losses.shape}, got "
            f"{labels.shape}; for one-hot labels pass labels.argmax(-1)."
        )
    if not soft:
        _warn_of_labels_from_one(labels, num_classes, where)
    if where is None:
        return
    if where.shape != losses.shape:
        raise ValueError(
            f"where must have the shape of losses, {losses.shape}, got {where.shape}."
        )
    if where.dtype != bool:
        raise TypeError(
            f"where must be bools, got {where.dtype}: pass a comparison such as "
            "mask > 0. To weigh examples, multiply their losses."
        )


# --- compositions ---------------------------------------------------------------------

# The incoming gradient does not show a wrapper: it is found in the call stack.
_MULTI_STEPS: Any = optax.MultiSteps.update
_APPLY_IF_FINITE: Any = optax.apply_if_finite(optax.identity(), 1).update
_FLATTEN: Any = optax.flatten(optax.identity()).update
_INJECTED: Any = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1).update


def check_composition(
    name: str, updates: chex.ArrayTree, params: Any, mask: Any, *, has_loss: bool
) -> None:
    """Raises unless ``update`` was called with valid arguments and wrappers.

    Args:
      name: name of the transformation in error messages.
      updates: the incoming updates.
      params: the parameters, or ``None`` if they were not passed.
      mask: the mask that the transformation was built with.
      has_loss: whether the loss function or an evaluation of it was passed.

    Raises:
      ValueError: if the parameters or the loss are missing, a tree is masked, the
        structures differ, or an unsupported wrapper calls ``update``.
      TypeError: if a parameter is not a real float.
    """
    if params is None:
        raise ValueError(
            f"{name} needs the parameters, got params=None: call tx.update(grads, "
            "state, params, evaluation=here), or tx.update(grads, state, params, "
            "per_class_loss_fn=f)."
        )
    _check_callers(name, mask)
    if not has_loss:
        raise ValueError(
            f"{name} needs the loss function: call tx.update(here.grads, state, "
            "params, evaluation=here) with here = focal_sam_jax.evaluate(...), or "
            "tx.update(grads, state, params, per_class_loss_fn=f), where f(params) "
            "returns the per-class losses of the batch, shape (num_classes,). If you "
            "did, a wrapper dropped it, as optax.lookahead does: use "
            "focal_sam_jax.sharpness_aware_value_and_grad there, which needs no extra "
            "argument."
        )
    if hasattr(updates, "grads") and hasattr(updates, "losses"):
        raise TypeError(
            f"{name} needs a gradient as updates, got {type(updates).__name__}: pass "
            "evaluation.grads."
        )
    if _is_masked(params) or _is_masked(updates):
        raise ValueError(
            f"{name} got a masked parameter tree, as made by optax.masked and "
            "optax.partition, but loss functions need the whole tree. Chain it before "
            f"that wrapper; to perturb only some parameters, pass "
            f"{name}(..., mask=...)."
        )
    if jax.tree.structure(updates) != jax.tree.structure(params):
        raise ValueError(
            f"{name} needs updates and params of the same structure, got "
            f"{jax.tree.structure(updates)} and {jax.tree.structure(params)}."
        )
    check_params(params)


def is_in_multi_steps() -> bool:
    """Returns whether ``optax.MultiSteps`` is among the callers."""
    return any(frame.f_code is _MULTI_STEPS.__code__ for frame in _frames())


def _frames():
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _check_callers(name, mask):
    for frame in _frames():
        code = frame.f_code
        # With k_steps = 1, MultiSteps accumulates nothing.
        if code is _MULTI_STEPS.__code__ and not _is_one(frame.f_locals.get("k_steps")):
            raise ValueError(
                f"{name} is wrapped by optax.MultiSteps, which would combine the "
                f"gradient of many batches with the loss of the last one. Put {name} "
                f"before it: optax.chain({name}(...), optax.MultiSteps(optimizer, "
                "every_k_schedule))."
            )
        if code is _APPLY_IF_FINITE.__code__:
            raise ValueError(
                f"{name} is wrapped by optax.apply_if_finite, which checks only the "
                "plain gradient and would accept a second gradient that is not finite. "
                f"Put {name} before it: optax.chain({name}(...), "
                "optax.apply_if_finite(optimizer, max_consecutive_errors))."
            )
        if code is _FLATTEN.__code__:
            raise ValueError(
                f"{name} is wrapped by optax.flatten, but loss functions cannot be "
                f"called on flat parameters. Put {name} before it: "
                f"optax.chain({name}(...), optax.flatten(optimizer))."
            )
        # inject_hyperparams turns numbers into arrays: a function returned this bool.
        if code is _INJECTED.__code__ and isinstance(mask, bool):
            raise ValueError(
                f"optax.inject_hyperparams called the mask of {name} as a schedule and "
                f'got {mask}: pass static_args="mask" to it.'
            )


def _is_one(steps: Any) -> bool:
    return isinstance(steps, int | np.integer) and steps == 1


def _is_masked(tree: chex.ArrayTree) -> bool:
    def is_node(leaf):
        return isinstance(leaf, optax.MaskedNode)

    return any(map(is_node, jax.tree.leaves(tree, is_leaf=is_node)))
