"""What a run shows while it lasts, and at its end."""

from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from experiments.config import Config
from experiments.metrics import SHOTS
from experiments.training.evaluate import shots


class RunProgress:
    """A bar of steps with the time that remains, and the latest numbers beside it."""

    def __init__(
        self, console: Console, epochs: int, steps_per_epoch: int, images_per_epoch: int
    ):
        self._epochs, self._steps_per_epoch = epochs, steps_per_epoch
        self._images_per_epoch = images_per_epoch
        self._seen: dict[str, Any] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self._task = self._progress.add_task(
            "compiling", total=epochs * steps_per_epoch
        )

    def __enter__(self) -> "RunProgress":
        self._progress.start()
        return self

    def __exit__(self, *_) -> None:
        self._progress.stop()

    def show(self, step: int, new: dict[str, Any]) -> None:
        """Moves the bar, and takes in new numbers."""
        self._seen |= new
        self._progress.update(
            self._task, completed=step, description=self._description(step)
        )

    def _description(self, step: int) -> str:
        seen = self._seen
        parts = [f"epoch {-(-step // self._steps_per_epoch)}/{self._epochs}"]
        if seen.get("loss") is not None:
            parts.append(f"loss {seen['loss']:.3f}")
        if "validation" in seen:
            parts.append(f"held-out {seen['validation']:.1%}")
        if "seconds" in seen:
            speed = self._images_per_epoch / seen["seconds"]
            parts.append(f"{speed:,.0f} images/s")
        if seen.get("skipped"):
            parts.append(f"[red]{seen['skipped']} steps skipped[/red]")
        return ", ".join(parts)


def result_table(
    results: dict[str, dict[str, Any]], class_counts: np.ndarray, config: Config
) -> Table:
    """Test accuracies by group, a column for each of the states that were evaluated."""
    table = Table(
        title="Test accuracy",
        caption="groups: mean over their classes; overall: of all test images",
    )
    table.add_column("classes")
    table.add_column("training examples", justify="right")
    for name, result in results.items():
        epoch = f": epoch {result['epoch']}" if "epoch" in result else ""
        table.add_column(name + epoch, justify="right")
    groups = shots(class_counts, config)
    for shot in SHOTS:
        counts = class_counts[groups == shot]
        if len(counts):
            spread = f"{counts.min()} to {counts.max()} each"
            cells = [_percent(r[f"accuracy_{shot}"]) for r in results.values()]
            table.add_row(shot, spread, *cells)
    table.add_section()
    total = f"{class_counts.sum()} in all"
    cells = [_percent(r["accuracy"]) for r in results.values()]
    table.add_row("overall", total, *cells, style="bold")
    return table


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{fraction:.1%}"
