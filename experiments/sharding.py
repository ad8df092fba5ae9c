"""How arrays lie over the devices: one mesh, with examples split along it.

Everything is an array of the whole program, on however many devices and hosts, so that
the same ``jit`` serves one device and many.
"""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.errors import UserError

_AXIS = "data"
# Smaller parameters are not worth the communication of gathering them.
_SMALLEST_SPLIT = 2**14


def device_mesh(number: int | None = None) -> Mesh:
    """A mesh of one axis over the first ``number`` devices, by default over all.

    Raises:
      UserError: if there are not so many.
    """
    devices = jax.devices()
    number = len(devices) if number is None else number
    if not 1 <= number <= len(devices):
        raise UserError(
            f"--devices must be from 1 to the {len(devices)} there are, got {number}."
        )
    if jax.process_count() > 1 and number != len(devices):
        raise UserError("--devices cannot leave out devices of several processes.")
    return Mesh(np.array(devices[:number]), (_AXIS,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_example(mesh: Mesh) -> NamedSharding:
    """The first axis, that of the examples, split over the devices."""
    return NamedSharding(mesh, PartitionSpec(_AXIS))


def of_state(shapes, mesh: Mesh, *, split: bool):
    """The sharding of every array of a training state.

    Args:
      shapes: the state's shapes, as ``jax.eval_shape`` gives them.
      mesh: the devices.
      split: whether to split large arrays, each along its longest axis that the number
        of devices divides, so that no device holds the whole state.
    """

    def sharding(leaf):
        devices = mesh.size
        axes = [i for i, n in enumerate(leaf.shape) if n % devices == 0]
        if not split or devices == 1 or not axes or leaf.size < _SMALLEST_SPLIT:
            return replicated(mesh)
        longest = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, _AXIS))

    return jax.tree.map(sharding, shapes)


def random_key(seed: int, mesh: Mesh) -> jax.Array:
    """The random key of a seed, on every device."""
    return jax.jit(jax.random.key, out_shardings=replicated(mesh))(seed)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises a ``UserError`` if the devices cannot share a batch evenly."""
    if batch_size % mesh.size:
        raise UserError(
            f"--batch-size must be a multiple of the {mesh.size} devices, got "
            f"{batch_size}."
        )


def local_rows(rows: tuple[np.ndarray, ...], mesh: Mesh) -> tuple[jax.Array, ...]:
    """Arrays of the whole program from the rows that this host read of each."""
    sharding = by_example(mesh)
    return tuple(
        jax.make_array_from_process_local_data(sharding, array) for array in rows
    )


def with_sharding(shapes, layout):
    """The shapes with the sharding of every array."""
    return jax.tree.map(
        lambda leaf, of_leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=of_leaf
        ),
        shapes,
        layout,
    )
