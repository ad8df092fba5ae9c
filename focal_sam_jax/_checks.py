"""What a user can get wrong, said in one sentence each.

Values are checked where they are concrete. A traced value has only a shape, so only
its shape is checked: schedules and ``optax.inject_hyperparams`` keep working.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

# One number for each class.
ClassValues = jax.typing.ArrayLike | Sequence[float]


def is_concrete(value: Any) -> bool:
    """Whether ``value`` can be looked at now, rather than when the program runs."""
    return not isinstance(value, Tracer)


def check_scalar(name: str, value: Any, *, low: float, high: float = math.inf) -> None:
    """Raises unless ``value`` is one finite number in ``[low, high]``.

    ``ValueError`` for a bad number, ``TypeError`` for what is no number at all.
    """
    wanted = f"a finite number >= {low:g}"
    if high < math.inf:
        wanted += f" and <= {high:g}"
    if callable(value):
        raise TypeError(
            f"{name} must be {wanted}, got the function {value!r}. A schedule is "
            "accepted for the rho of the Optax transforms only: elsewhere call it with "
            "the step and pass the result."
        )
    if np.shape(value) != ():
        raise ValueError(f"{name} must be {wanted}, got shape {np.shape(value)}.")
    if not is_concrete(value):
        return
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be {wanted}, got {value!r}.") from None
    if not (math.isfinite(number) and low <= number <= high):
        raise ValueError(f"{name} must be {wanted}, got {value}.")


def check_at_least(name: str, value: int, low: int) -> None:
    """Raises ``ValueError`` unless ``value`` is a whole number of at least ``low``."""
    if not isinstance(value, int | np.integer) or value < low:
        raise ValueError(
            f"{name} must be a whole number of at least {low}, got {value}."
        )


def check_class_counts(
    class_counts: ClassValues, *, allow_single_class: bool = False
) -> None:
    """Raises ``ValueError`` unless these are counts that classes can be weighed by.

    Wanted: shape ``(num_classes,)``, finite, not negative, and examples in at least two
    classes. ``allow_single_class`` accepts the shape ``(1,)`` as well.
    """
    shape = np.shape(class_counts)
    if len(shape) != 1 or shape[0] == 0:
        raise ValueError(
            "class_counts must be a 1-D array with the number of training examples of "
            f"each class, shape (num_classes,), got shape {shape}."
        )
    if not is_concrete(class_counts):
        return
    counts = np.asarray(class_counts, dtype=np.float64)
    if not np.all(np.isfinite(counts)) or np.any(counts < 0):
        raise ValueError(
            f"class_counts must be finite and not negative, got {class_counts}."
        )
    if np.count_nonzero(counts) < 2 and not (allow_single_class and counts.size == 1):
        raise ValueError(
            "class_counts must have examples in at least two classes, got "
            f"{class_counts}: with all data in one class there is no tail to weigh."
        )
