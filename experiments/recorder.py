"""All that takes the rows of a run: metrics.jsonl and TensorBoard."""

from pathlib import Path
from typing import Any

from experiments.records import MetricsFile
from experiments.tensorboard import TensorBoard


class Recorder:
    """Writes a row wherever it belongs, or nowhere."""

    def __init__(self, run_dir: Path, *, keep_until_step: int, writes: bool):
        """Opens the records of a run to go on after so many steps.

        Args:
          run_dir: the run's folder.
          keep_until_step: what was written later goes.
          writes: whether this process writes; of several only the first does.
        """
        self._file = self._tensorboard = None
        if writes:
            self._file = MetricsFile(run_dir, keep_until_step=keep_until_step)
            self._tensorboard = TensorBoard(run_dir, keep_until_step=keep_until_step)

    def append(self, row: dict[str, Any]) -> None:
        """Adds a row."""
        if self._file and self._tensorboard:
            self._file.append(row)
            self._tensorboard.append(row)

    def close(self) -> None:
        """Writes what is not yet on disk."""
        if self._tensorboard:
            self._tensorboard.close()
