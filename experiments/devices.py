"""Devices and processes: who takes part, and how arrays lie over them.

One mesh, with examples split along it. Everything is an array of the whole program, on
however many devices and processes, so that the same ``jit`` serves one device and many.
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

    Without arguments they are found on TPU pods and under SLURM, and elsewhere this is
    the only one. It has to come before anything else of JAX.

    Args:
      coordinator: address and port of the first process, "host:port".
      num_processes: how many there are.
      process_id: which of them this is, from 0.

    Raises:
      UserError: if only some of the three are given, or the others are not found.
    """
    given = (coordinator, num_processes, process_id)
    if any(part is None for part in given) and any(part is not None for part in given):
        raise UserError(
            "--coordinator, --num-processes and --process-id go together, got "
            f"{coordinator}, {num_processes} and {process_id}."
        )
    try:
        jax.distributed.initialize(*given)
    except ValueError as error:
        if coordinator is not None:
            raise UserError(
                f"cannot join the other processes: {error}; see --coordinator."
            ) from error
        # Nothing tells of a cluster: this process is alone.
    except RuntimeError as error:
        raise UserError(
            f"cannot reach the other processes through {coordinator}: "
            f"{str(error).splitlines()[0]}"
        ) from error


def is_first() -> bool:
    """Whether this process writes records and speaks to the user.

    Raises:
      UserError: if there are no devices.
    """
    _find()
    return jax.process_index() == 0


def together(make: Callable[[], _Result]) -> _Result:
    """What every process makes; where the first one cannot, all raise its error."""
    problem, result = None, None
    try:
        result = make()
    except UserError as error:
        problem = error
    agree(problem if is_first() else None)
    if problem is not None:
        raise problem
    return cast(_Result, result)


def _find() -> list[jax.Device]:
    """All devices, which JAX looks for when it is first asked."""
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else "there are none"
        raise UserError(
            f"JAX cannot use devices of JAX_PLATFORMS={jax.config.jax_platforms} "
            f"({reason}): name others, or install the JAX that is made for them."
        ) from error


def agree(error: UserError | None) -> None:
    """Raises on every process what went wrong on the first, if anything did.

    Otherwise the others would wait for it for ever.
    """
    failed = multihost_utils.broadcast_one_to_all(int(error is not None))
    if failed:
        raise error or UserError("the first process has stopped; see its message.")


def device_mesh(number: int | None = None) -> Mesh:
    """A mesh of one axis over the first ``number`` devices, by default over all.

    Raises:
      UserError: if there are none, or not so many.
    """
    devices = _find()
    number = len(devices) if number is None else number
    if not 1 <= number <= len(devices):
        raise UserError(
            f"--devices must be from 1 to the {len(devices)} there are, got {number}."
        )
    if jax.process_count() > 1 and number != len(devices):
        raise UserError("--devices cannot leave out devices of several processes.")
    return Mesh(np.array(devices[:number]), (_AXIS,))


def loops_are_fast() -> bool:
    """Whether many steps should be one device loop, and many seeds one ``vmap``.

    On GPU and TPU they should. XLA's CPU backend runs convolutions inside a loop, or
    with a batch of kernels, many times slower than one after the other.
    """
    return jax.default_backend() != "cpu"


def described(mesh: Mesh) -> str:
    """The devices in words, such as "4 NVIDIA H100"."""
    return f"{mesh.size} {mesh.devices.flat[0].device_kind}"


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
