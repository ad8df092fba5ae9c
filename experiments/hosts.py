"""Several hosts as one program, and who of them writes."""

import jax
from jax.experimental import multihost_utils

from experiments.errors import UserError


def start(
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
    """Whether this process writes records and speaks to the user."""
    return jax.process_index() == 0


def agree(error: UserError | None) -> None:
    """Raises on every process what went wrong on the first, if anything did.

    Otherwise the others would wait for it for ever.
    """
    failed = multihost_utils.broadcast_one_to_all(int(error is not None))
    if failed:
        raise error or UserError("the first process has stopped; see its message.")
