"""A report: the tables and figures of groups of runs, in a folder."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from experiments.figures import runs as figures
from experiments.figures.classes import per_class_accuracy
from experiments.figures.style import NAMED, frequency_order
from experiments.metrics import shot_of_class, shot_thresholds
from experiments.records.manifest import write_json
from experiments.reporting.classes import class_accuracies, class_differences
from experiments.reporting.groups import Group
from experiments.reporting.results import difference_rows, group_rows, verdict
from experiments.reporting.tables import (
    as_markdown,
    as_rich,
    report_tables,
    settings_table,
)


def write_report(
    by_data: dict[str, list[Group]],
    left_out: dict[Path, str],
    out: Path,
    attempt: Callable[[Callable[[], None]], None],
) -> list[Table | str]:
    """Writes report.json, table.md and figures.

    Args:
      by_data: the groups of each data set.
      left_out: runs that are not in the groups, with the reason.
      out: folder of the report.
      attempt: function that calls a drawing function, which may fail.

    Returns:
      Tables and texts to show, in order.
    """
    report: dict[str, Any] = {
        "data": {},
        "left_out": {str(folder): why for folder, why in left_out.items()},
    }
    sections, shown = [], []
    for place, (data, groups) in enumerate(by_data.items(), start=1):
        rows, differences = group_rows(groups), difference_rows(groups)
        report["data"][data] = {"groups": rows, "differences": differences}
        for table in report_tables(data, rows, differences):
            sections.append(as_markdown(table))
            shown += [as_rich(table), ""]
        if words := verdict(differences):
            sections.append(f"{words}\n")
            shown += [words, ""]
        sections += map(as_markdown, settings_table(data, rows))
        suffix = f"-{place}" if len(by_data) > 1 else ""
        attempt(partial(_draw, out, suffix, data, groups, rows))
    write_json(out / "report.json", report)
    (out / "table.md").write_text("\n".join(sections), encoding="utf-8")
    shown += [f"left out: {folder}, {why}" for folder, why in left_out.items()]
    return [*shown, f"Everything is in {out}."]


def _draw(
    out: Path,
    suffix: str,
    data: str,
    groups: list[Group],
    rows: list[dict[str, Any]],
) -> None:
    """Draws the figures of one data set."""
    figures.method_comparison(
        out / f"accuracy{suffix}.png",
        [{"name": row["name"], **row["last"]} for row in rows],
        f"{data}, last epoch",
    )
    figures.learning_curves(
        out / f"curves{suffix}.png",
        {group.name: [run.rows for run in group.runs] for group in groups},
        data,
    )
    runs = [run for group in groups for run in group.runs]
    orders = [frequency_order(run.class_counts) for run in runs]
    counts = [run.class_counts[order] for run, order in zip(runs, orders, strict=True)]
    if any(not np.array_equal(of_run, counts[0]) for of_run in counts):
        return
    # A rank has a name if it is the same class in all runs.
    named = all(np.array_equal(order, orders[0]) for order in orders)
    config = groups[0].config
    thresholds = shot_thresholds(
        data, config["imbalance_factor"], config["imbalance"], config["held_out"]
    )
    per_class_accuracy(
        out / f"per_class_accuracy{suffix}.png",
        class_accuracies(groups),
        class_differences(groups) if len(counts[0]) <= NAMED else {},
        counts[0],
        [runs[0].class_names[c] for c in orders[0]] if named else None,
        shot_of_class(counts[0], thresholds),
        f"{data}, last epoch, mean over seeds",
    )
