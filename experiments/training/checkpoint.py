"""Checkpoints by Orbax: the latest states and the best, written in the background.

A killed process leaves no partial checkpoint. A checkpoint holds the state, its
checksum, which is verified on reading, the configuration, and the best accuracy so far.
Data order and randomness are functions of the seed and of the state's step, so nothing
else is needed to resume exactly.
"""

import json
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    BestN,
    LatestN,
)

from experiments.config import Config
from experiments.errors import UserError
from experiments.records.manifest import CHECKPOINTS, as_json, changed_options
from experiments.training.step import TrainState

_KEPT = 2
_ACCURACY = "accuracy"


class Best(NamedTuple):
    """The best result on the validation split.

    Attributes:
      accuracy: overall accuracy, as a fraction; -1 if there was none yet.
      step: number of steps until then.
    """

    accuracy: float = -1.0
    step: int = 0


def last_network(run_dir: Path) -> tuple[int, Any, Any]:
    """Reads the network of a run's newest checkpoint: the averaged one, if any.

    Args:
      run_dir: the run's folder.

    Returns:
      Steps made, parameters and BatchNorm statistics, nested dicts of NumPy arrays.

    Raises:
      UserError: if the run has no checkpoint, or it cannot be read.
    """
    folder = (run_dir / CHECKPOINTS).absolute()
    step = max(
        (int(p.name) for p in folder.glob("[0-9]*") if p.name.isdigit()), default=None
    )
    if step is None:
        raise UserError(f"{run_dir} has no checkpoint: train for one epoch at least.")
    if "\\" in str(folder):
        raise UserError(f"{folder} has a backslash in it, which Orbax cannot read.")
    try:
        with ocp.StandardCheckpointer() as reader:
            state = reader.restore(folder / str(step) / "state")
            about = ocp.JsonCheckpointHandler().restore(folder / str(step) / "about")
    except Exception as error:  # Orbax and its dependencies raise many types.
        raise _unreadable(folder / str(step), _first_line(error)) from error
    _check(state, about, folder / str(step))
    params, batch_stats = state["average"] or (state["params"], state["batch_stats"])
    return step, *jax.tree.map(np.asarray, (params, batch_stats))


class Checkpoints:
    """The checkpoints of a run, by the number of steps made."""

    def __init__(self, run_dir: Path, config: Config, shapes: TrainState):
        """Opens the folder of a run.

        Args:
          run_dir: the run's folder.
          config: configuration that checkpoints must have.
          shapes: shapes, dtypes and shardings of the state.
        """
        self._config = config
        self._shapes = shapes
        folder = (run_dir / CHECKPOINTS).absolute()
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} must be the folder of checkpoints, got a file.")
        for metrics in sorted(folder.glob("[0-9]*/metrics/metrics")):
            _check_metrics(metrics)

        def accuracy(metrics):
            return metrics[_ACCURACY]

        kept = AnyPreservationPolicy(
            [LatestN(_KEPT), BestN(get_metric_fn=accuracy, n=1)]
        )
        self._manager = ocp.CheckpointManager(
            folder,
            # Without best_fn metrics would not be written, and a resumed run would not
            # know which checkpoint is the best.
            options=ocp.CheckpointManagerOptions(
                preservation_policy=kept, best_fn=accuracy
            ),
        )

    def save(self, step: int, state: TrainState, best: Best) -> None:
        """Copies the state to the host; writing goes on in the background.

        The best checkpoint is kept beside the last ones. An existing checkpoint of this
        step is not replaced.
        """
        if step in self._manager.all_steps():
            return
        about = {
            "config": as_json(self._config),
            "best": best._asdict(),
            "checksum": checksum(state),
        }
        # Only a new best records its accuracy, so it exceeds all before.
        accuracy = best.accuracy if best.step == step else -1.0
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)
            ),
            metrics={_ACCURACY: accuracy},
            force=True,
        )

    def latest(self) -> int | None:
        """Returns the newest checkpoint's step; ``None`` if there is none yet."""
        return self._manager.latest_step()

    def restore(self, step: int) -> tuple[int, TrainState, Best]:
        """Reads a checkpoint: step, state and best result.

        Raises:
          UserError: if it belongs to another configuration or cannot be read.
        """
        about = self._read(step, about=ocp.args.JsonRestore()).about
        changed_options(about["config"], self._config)
        state = self._read(step, state=ocp.args.StandardRestore(self._shapes)).state
        _check(state, about, self._manager.directory / str(step))
        return step, state, Best(**about["best"])

    def reached_preemption(self, step: int) -> bool:
        """Returns whether the hosts have agreed to stop after this step."""
        return self._manager.reached_preemption(step)

    def wait(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is on disk, and closes the manager."""
        self._manager.close()

    def _read(self, step, **items):
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # Orbax and its dependencies raise many types.
            folder = self._manager.directory / str(step)
            raise _unreadable(folder, _first_line(error)) from error


def checksum(tree: Any) -> int:
    """Computes a checksum of all bits of all arrays, for any order of the arrays."""
    return sum(map(int, jax.device_get(jax.tree.map(_checksum, jax.tree.leaves(tree)))))


@jax.jit
def _checksum(array: jax.Array) -> jax.Array:
    """Computes the checksum of one array, uint32, ()."""
    widths = {1: jnp.uint8, 2: jnp.uint16}
    bits = array.astype(jnp.uint8) if array.dtype == bool else array
    bits = jax.lax.bitcast_convert_type(
        bits, widths.get(array.dtype.itemsize, jnp.uint32)
    ).astype(jnp.uint32)
    place, stride = jnp.uint32(0), 1
    for axis in reversed(range(bits.ndim)):
        along = jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
        place += along * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    # Multiplies and shifts, so that every bit affects many.
    mixed = bits ^ (place * jnp.uint32(0x9E3779B1))
    for factor in (0x85EBCA6B, 0xC2B2AE35):
        mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(factor)
    return jnp.sum(mixed ^ (mixed >> 16), dtype=jnp.uint32)


def _check_metrics(path: Path) -> None:
    """Raises a ``UserError`` if Orbax would fail on this metrics file."""
    try:
        json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise _unreadable(path.parents[1], _first_line(error)) from None


def _check(state: Any, about: dict[str, Any], checkpoint) -> None:
    # Checkpoints of an earlier version have no checksum.
    if "checksum" in about and about["checksum"] != checksum(state):
        raise _unreadable(checkpoint, "its checksum is wrong")


def _unreadable(checkpoint, why: str) -> UserError:
    step = int(checkpoint.name)
    before = [int(p.name) for p in checkpoint.parent.iterdir() if p.name.isdigit()]
    before = [other for other in before if other < step]
    advice = "start again in another --run-dir."
    if before:
        away = checkpoint.parent.parent / f"damaged-{step}"
        move = f"mv {shlex.quote(str(checkpoint))} {shlex.quote(str(away))}"
        advice = (
            f"after `{move}` the same command continues from the previous one, of step "
            f"{max(before)}."
        )
    return UserError(
        f"the checkpoint {checkpoint} is damaged or was written by another program "
        f"({why}): {advice}"
    )


def _first_line(error: Exception) -> str:
    text = f"{type(error).__name__}: {error}".splitlines()[0]
    return text if len(text) <= 200 else text[:200] + "…"
