"""Rows of a run's metrics, in metrics.jsonl and in TensorBoard."""

import json
import logging
import math
from pathlib import Path
from typing import Any

from experiments.errors import UserError
from experiments.records.manifest import METRICS

# Seconds after which TensorBoard's numbers are on disk at the latest.
_FLUSH_EVERY = 10


class RowWriter:
    """Writer of rows to metrics.jsonl and TensorBoard."""

    def __init__(self, run_dir: Path, *, keep_until_step: int, writes: bool):
        """Opens the records of a run to append to them.

        Args:
          run_dir: folder of the run.
          keep_until_step: last step to keep; later rows are deleted.
          writes: whether this process writes; of several only the first does.
        """
        self._file = self._tensorboard = None
        if writes:
            self._file = MetricsFile(run_dir, keep_until_step=keep_until_step)
            self._tensorboard = TensorBoard(run_dir)

    def append(self, row: dict[str, Any]) -> None:
        """Adds a row."""
        if self._file and self._tensorboard:
            self._file.append(row)
            self._tensorboard.append(row)

    def close(self) -> None:
        """Writes buffered rows to disk."""
        if self._tensorboard:
            self._tensorboard.close()


class MetricsFile:
    """metrics.jsonl: one JSON object per line, written immediately."""

    def __init__(self, run_dir: Path, *, keep_until_step: int):
        """Opens the file; deletes rows after ``keep_until_step``.

        Test rows are deleted too, because a resumed run writes them again.
        """
        self._path = run_dir / METRICS
        kept = [
            row
            for row in read_metrics(run_dir)
            if row["step"] <= keep_until_step and row["split"] != "test"
        ]
        unfinished = self._path.with_suffix(".tmp")
        unfinished.write_text("".join(map(_line, kept)))
        unfinished.replace(self._path)

    def append(self, row: dict[str, Any]) -> None:
        """Adds a line."""
        with self._path.open("a") as file:
            file.write(_line(row))


def _line(row: dict[str, Any]) -> str:
    """Returns a row as JSON; numbers that are not finite become null."""
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
    """Reads all rows; a last line that a crash left unreadable is ignored.

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
            f"line {rows.index(None) + 1} of {path} is not a row of metrics: repair "
            "it, or delete it."
        )
    return rows


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and {"step", "split"} <= row.keys() else None


class TensorBoard:
    """TensorBoard event files in the folder of a run.

    metrics.jsonl is the authoritative record. Opening hides all points of earlier event
    files and writes the rows of metrics.jsonl again. So a resumed run has every point
    once, even if a crash lost some in the event files.
    """

    def __init__(self, run_dir: Path):
        """Opens a new event file, with the rows of :class:`MetricsFile`."""
        # Imported late: it loads PyTorch where that is installed.
        from tensorboardX import SummaryWriter

        # Numbers that are not finite are written without a warning.
        logging.getLogger("tensorboardX.x2num").setLevel(logging.ERROR)

        # Readers drop all points of earlier files from this step on.
        self._writer = SummaryWriter(
            str(run_dir),
            purge_step=0,
            flush_secs=_FLUSH_EVERY,
            max_queue=0,  # unbounded: the writer thread may have died on a full disk
        )
        for row in read_metrics(run_dir):
            self.append(row)

    def append(self, row: dict[str, Any]) -> None:
        """Adds the numbers of a row at its step, under names such as ``train/loss``.

        The ``which`` of a test row becomes part of the name, as in
        ``test_last/accuracy``. Lists, strings and ``None`` are left out.
        """
        group = "_".join(row[key] for key in ("split", "which") if key in row)
        for name, value in row.items():
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if is_number and name not in ("step", "epoch"):
                self._writer.add_scalar(f"{group}/{name}", value, row["step"])

    def close(self) -> None:
        """Writes buffered points to disk."""
        self._writer.close()
