"""States on disk, through Orbax."""

import dataclasses
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from experiments.config import Config
from experiments.errors import UserError
from experiments.step import TrainState


class Checkpoints:
    """The last states of a run, by epoch, each beside its configuration."""

    def __init__(self, run_dir: Path, config: Config):
        self._config = dataclasses.asdict(config)
        self._manager = ocp.CheckpointManager(
            (run_dir / "checkpoints").absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2, enable_async_checkpointing=False
            ),
        )

    def save(self, epoch: int, state: TrainState) -> None:
        """Saves the state after an epoch, 1 being the first."""
        self._manager.save(
            epoch,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                config=ocp.args.JsonSave(self._config),
            ),
        )

    def restore(self, template: TrainState) -> tuple[int, TrainState]:
        """The newest state and its epoch.

        Args:
          template: shapes and dtypes of the state, as ``jax.eval_shape`` gives them.

        Raises:
          UserError: if there is none, or it belongs to another configuration.
        """
        epoch = self._manager.latest_step()
        if epoch is None:
            raise UserError(
                f"{self._manager.directory} holds no finished checkpoint to resume "
                "from: start the run anew in another --run-dir."
            )
        saved = self._manager.restore(
            epoch, args=ocp.args.Composite(config=ocp.args.JsonRestore())
        ).config
        changed = [
            f"{name}: {saved.get(name)} then, {value} now"
            for name, value in self._config.items()
            if saved.get(name) != value
        ]
        if changed:
            raise UserError(
                f"cannot resume with another configuration ({'; '.join(changed)}): "
                "pass the same options again, or another --run-dir."
            )
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        template = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=sharding
            ),
            template,
        )
        state = self._manager.restore(
            epoch, args=ocp.args.Composite(state=ocp.args.StandardRestore(template))
        ).state
        return epoch, state

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.close()
