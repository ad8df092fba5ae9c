"""Progress of a run, and the table of its results."""

import time
from datetime import timedelta
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from experiments.config import Config
from experiments.metrics import SHOTS
from experiments.training.evaluate import shots, thresholds

# Minimum seconds between lines without a terminal: after an epoch, and within one.
_AN_EPOCH, _IN_AN_EPOCH = 10, 60


class RunProgress:
    """A progress bar over steps, with times and the latest numbers.

    Without a terminal, lines are printed: after epochs, and within long ones.
    """

    def __init__(self, console: Console, epochs: int, steps: int, batch_size: int):
        """
        Args:
          console: console to print to.
          epochs: number of epochs of the run.
          steps: number of steps of the run.
          batch_size: images per step.
        """
        self._console = console
        self._epochs, self._total = epochs, steps
        self._steps_per_epoch = steps // epochs
        self._images_per_epoch = batch_size * self._steps_per_epoch
        self._seen: dict[str, Any] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=12),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("compiling", total=self._total)
        self._began = self._said = time.monotonic()

    def __enter__(self) -> "RunProgress":
        if not self._console.is_terminal:
            self._console.print("compiling")
        self._progress.start()
        return self

    def __exit__(self, *_) -> None:
        self._progress.stop()

    def show(self, step: int, new: dict[str, Any]) -> None:
        """Advances the bar to ``step`` with new numbers."""
        self._seen |= new
        description = self._description(step)
        if self._console.is_terminal:
            self._progress.update(self._task, completed=step, description=description)
            return
        now = time.monotonic()
        silence = now - self._said
        last = "loss" in new and step == self._total
        if last or silence >= (_AN_EPOCH if "loss" in new else _IN_AN_EPOCH):
            self._said = now
            spent = timedelta(seconds=round(now - self._began))
            self._console.print(f"{step / self._total:.0%} in {spent}: {description}")

    def _description(self, step: int) -> str:
        seen = self._seen
        parts = [f"epoch {-(-step // self._steps_per_epoch)}/{self._epochs}"]
        if seen.get("loss") is not None:
            parts.append(f"loss {seen['loss']:.3f}")
        if "validation" in seen:
            parts.append(f"validation {seen['validation']:.1%}")
        if "seconds" in seen:
            speed = self._images_per_epoch / seen["seconds"]
            parts.append(f"{speed:,.0f} images/s")
        if seen.get("skipped"):
            parts.append(f"[red]{seen['skipped']} steps skipped[/red]")
        return ", ".join(parts)


def result_table(
    results: dict[str, dict[str, Any]],
    class_counts: np.ndarray,
    config: Config,
    title: str = "Test accuracy",
) -> Table:
    """Returns accuracies by group, in a column for each evaluated state."""
    limits = thresholds(config)
    table = Table(
        title=title,
        caption="groups: mean over their classes; overall: of all images; many: more "
        f"than {limits.many_above:g} training images, few: fewer than "
        f"{limits.few_below:g}",
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
