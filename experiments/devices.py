"""Devices and processes, and the sharding of arrays over them.

There is one mesh, and examples are split along its axis. All arrays are global, on any
number of devices and processes, so that the same ``jit`` serves one device and many.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.errors import UserError

_Result = TypeVar("_Result")

_AXIS = "data"
# Smaller parameters are not worth the communication of gathering them.
_SMALLEST_SPLIT = 2**14


def join_processes(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the other processes of this run, if there are any.

    Without arguments they are found on TPU pods and under SLURM; elsewhere this is the
    only process. Call it before anything else in JAX.

    Args:
      coordinator: address and port of the first process, "host:port".
      num_processes: number of processes.
      process_id: index of this process, from 0.

    Raises:
      UserError: if only some of the three are given, or other processes are not found.
    """
    given = (coordinator, num_processes, process_id)
    if any(part is None for part in given) and any(part is not None for part in given):
        raise UserError(
            "--coordinator, --num-processes and --process-id must be given together, "
            f"got {coordinator}, {num_processes} and {process_id}."
        )
    try:
        jax.distributed.initialize(*given)
    except ValueError as error:
        if coordinator is not None:
            raise UserError(
                f"cannot join the other processes: {error}; see --coordinator."
            ) from error
        # No cluster was found: this is the only process.
    except RuntimeError as error:
        raise UserError(
            f"cannot reach the other processes through {coordinator}: "
            f"{str(error).splitlines()[0]}"
        ) from error


def is_first() -> bool:
    """Returns whether this process writes records and messages to the user.

    Raises:
      UserError: if there are no devices.
    """
    _find()
    return jax.process_index() == 0


def together(make: Callable[[], _Result]) -> _Result:
    """Returns what ``make`` returns; if it fails on the first process, all raise."""
    problem, result = None, None
    try:
        result = make()
    except UserError as error:
        problem = error
    # Otherwise the others would wait for the first one for ever.
    failed = multihost_utils.broadcast_one_to_all(int(problem is not None))
    if problem is not None:
        raise problem
    if failed:
        raise UserError("the first process has stopped; see its message.")
    return cast(_Result, result)


def _find() -> list[jax.Device]:
    """Returns all devices; JAX searches for them at the first call."""
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else "there are none"
        raise UserError(
            f"JAX cannot use devices of JAX_PLATFORMS={jax.config.jax_platforms} "
            f"({reason}): name others, or install the JAX build for them."
        ) from error


def device_mesh(number: int | None = None) -> Mesh:
    """Returns a one-axis mesh of the first ``number`` devices, by default of all.

    Raises:
      UserError: if there are too few devices, or several processes would not use all.
    """
    devices = _find()
    number = len(devices) if number is None else number
    if not 1 <= number <= len(devices):
        raise UserError(
            f"--devices must be from 1 to {len(devices)}, the number of devices, got "
            f"{number}."
        )
    if jax.process_count() > 1 and number != len(devices):
        raise UserError(
            "--devices cannot leave out devices in a run of several processes."
        )
    return Mesh(np.array(devices[:number]), (_AXIS,))


def loops_are_fast() -> bool:
    """Returns whether to put many steps in a device loop, and many seeds in ``vmap``.

    This is so on GPU and TPU. XLA's CPU backend runs convolutions inside a loop, or
    with batched kernels, many times slower than one after the other.
    """
    return jax.default_backend() != "cpu"


def described(mesh: Mesh) -> str:
    """Returns the devices in words, such as "4 NVIDIA H100"."""
    return f"{mesh.size} {mesh.devices.flat[0].device_kind}"


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding with the whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_example(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that splits the first axis, the examples."""
    return NamedSharding(mesh, PartitionSpec(_AXIS))


def of_state(shapes, mesh: Mesh, *, split: bool):
    """Returns the sharding of every array of a training state.

    Args:
      shapes: the state's shapes, as ``jax.eval_shape`` gives them.
      mesh: the devices.
      split: whether to split large arrays, each along its longest axis whose length is
        a multiple of the number of devices, so that no device holds the whole state.
    """

    def sharding(leaf):
        devices = mesh.size
        axes = [i for i, n in enumerate(leaf.shape) if n % devices == 0]
        if not split or devices == 1 or not axes or leaf.size < _SMALLEST_SPLIT:
            return replicated(mesh)
        longest = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, _AXIS))

    return jax.tree.map(sharding, shapes)


def check_batch_size(batch_size: int, mesh: Mesh) -> None:
    """Raises a ``UserError`` if the devices cannot share a batch evenly."""
    if batch_size % mesh.size:
        raise UserError(
            f"--batch-size must be a multiple of the {mesh.size} devices, got "
            f"{batch_size}."
        )


def local_rows(rows: tuple[np.ndarray, ...], mesh: Mesh) -> tuple[jax.Array, ...]:
    """Returns global arrays; ``rows`` are the parts that this host has read."""
    sharding = by_example(mesh)
    return tuple(
        jax.make_array_from_process_local_data(sharding, array) for array in rows
    )
