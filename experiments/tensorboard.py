"""The numbers of metrics.jsonl for TensorBoard: ``tensorboard --logdir runs``."""

from pathlib import Path
from typing import Any

from experiments.records import metrics_until

# Seconds after which a number is on disk at the latest.
_FLUSH_EVERY = 10


class TensorBoard:
    """Event files in the folder of a run, beside its metrics.jsonl.

    metrics.jsonl is what counts. Opening hides all that earlier event files of the run
    hold, and writes anew what metrics.jsonl holds up to the checkpoint. So a run that
    goes on has every point once: none from after the checkpoint, no result on the test
    set, which is about to come again, and all the others, even where a crash kept them
    from the disk.
    """

    def __init__(self, run_dir: Path, *, keep_until_step: int):
        """Opens them to go on after so many steps; what was written later goes."""
        # Imported late: it loads PyTorch where that is installed.
        from tensorboardX import SummaryWriter

        # A reader drops all earlier points from this step on.
        self._writer = SummaryWriter(
            str(run_dir), purge_step=0, flush_secs=_FLUSH_EVERY
        )
        for row in metrics_until(run_dir, keep_until_step):
            self.append(row)

    def append(self, row: dict[str, Any]) -> None:
        """Adds the numbers of a row at its step, as ``train/loss``, say.

        What a test row is of, its ``which``, becomes part of the name, as in
        ``test_last/accuracy``. Lists, texts and ``None`` are left out.
        """
        group = "_".join(row[key] for key in ("split", "which") if key in row)
        for name, value in row.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and name != "step":
                self._writer.add_scalar(f"{group}/{name}", value, row["step"])

    def close(self) -> None:
        """Brings the rest to the disk."""
        self._writer.close()
