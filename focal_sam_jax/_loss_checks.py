"""What a user can get wrong in calling a loss, said in one sentence each."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from focal_sam_jax._checks import ClassValues, is_concrete


def check_batch(logits: ArrayLike, labels: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """Raises unless this is a batch of logits with the id of a class for each.

    Returns:
      The logits in float32 or wider, and which class is the label; both of shape
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
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    classes = jnp.arange(logits.shape[1], dtype=jnp.int32)
    return logits, labels.astype(jnp.int32)[:, None] == classes[None, :]


def check_per_class(
    name: str, values: ClassValues, num_classes: int | None = None
) -> jax.Array:
    """Raises unless these are finite, not negative and not all zero, one a class.

    Returns:
      The values as floats, shape ``(num_classes,)``.
    """
    array = jnp.asarray(values, dtype=float)
    if array.ndim != 1 or num_classes not in (None, array.size):
        raise ValueError(
            f"{name} must have shape ({num_classes or 'num_classes'},), got "
            f"{array.shape}; pass one number for every column of the logits."
        )
    if not all(is_concrete(leaf) for leaf in jax.tree.leaves(values)):
        return array
    looked_at = np.asarray(values, dtype=float)
    if not (np.all((looked_at >= 0) & (looked_at < np.inf)) and np.any(looked_at)):
        raise ValueError(
            f"{name} must be finite, >= 0 and not all zero, got {looked_at.tolist()}."
        )
    return array


def check_number(
    name: str, value: ArrayLike, is_good: Callable[..., bool], wanted: str
) -> None:
    """Raises unless ``value`` is one number that is good, looked at unless traced."""
    is_traced = not is_concrete(value)
    if not (is_traced or jnp.issubdtype(np.asarray(value).dtype, jnp.number)):
        raise TypeError(f"{name} must be a number {wanted}, got {value!r}.")
    if np.ndim(value) != 0 or not (is_traced or is_good(value)):
        raise ValueError(f"{name} must be a single number {wanted}, got {value}.")
