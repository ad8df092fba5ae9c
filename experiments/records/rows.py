"""The rows of a run's metrics: metrics.jsonl, and beside it TensorBoard."""

import json
import logging
import math
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.records.manifest import METRICS

# Seconds after which a number is on TensorBoard's disk at the latest.
_FLUSH_EVERY = 10


class RowWriter:
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


class MetricsFile:
    """metrics.jsonl: one JSON object a line, on disk as soon as it is known."""

    def __init__(self, run_dir: Path, *, keep_until_step: int):
        """Opens it to go on after so many steps; what was written later goes."""
        self._path = run_dir / METRICS
        kept = metrics_until(run_dir, keep_until_step)
        unfinished = self._path.with_suffix(".tmp")
        unfinished.write_text("".join(map(_line, kept)))
        unfinished.replace(self._path)

    def append(self, row: dict[str, Any]) -> None:
        """Adds a line."""
        with self._path.open("a") as file:
            file.write(_line(row))


def _line(row: dict[str, Any]) -> str:
    """A row as JSON, which has no numbers that are not finite."""
    return json.dumps(_finite(row), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return None
        case dict():
            return {key: _finite(part) for key, part in value.items()}
        case list():
            return [_finite(part) for part in value]
    return value


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """All lines but a last one that a crash cut short or left unreadable.

    Raises:
      UserError: if another line cannot be read.
    """
    path = run_dir / METRICS
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    while lines and not lines[-1].strip("\0"):
        lines.pop()
    rows = list(map(_row, lines))
    if rows and rows[-1] is None:
        rows.pop()
    if None in rows:
        raise UserError(
            f"line {rows.index(None) + 1} of {path} is no row of metrics: mend it, or "
            "delete it."
        )
    return rows


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and {"step", "split"} <= row.keys() else None


def metrics_until(run_dir: Path, step: int) -> list[dict[str, Any]]:
    """The rows that stay when a run goes on after so many steps.

    Those of the test set do not: they are about to come again.
    """
    return [
        row
        for row in read_metrics(run_dir)
        if row["step"] <= step and row["split"] != "test"
    ]


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

        # What is not finite is a point like others, and nothing to warn of.
        logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)

        # A reader drops all earlier points from this step on.
        self._writer = SummaryWriter(
            str(run_dir),
            purge_step=0,
            flush_secs=_FLUSH_EVERY,
            max_queue=0,  # no bound: its thread may have ended, on a full disk
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
