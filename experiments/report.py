"""Finished runs as tables and figures: ``python -m experiments.report --help``."""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from rich.console import Console

from experiments.cli import RunDirs
from experiments.ending import exit_with
from experiments.errors import UserError
from experiments.figures import runs as figures
from experiments.figures.style import frequency_order
from experiments.metrics import shot_of_class, shot_thresholds
from experiments.records.manifest import report_dir, write_json
from experiments.reporting.groups import Group, find_groups
from experiments.reporting.results import difference_rows, group_rows
from experiments.reporting.runs import FinishedRun
from experiments.reporting.tables import (
    as_markdown,
    as_rich,
    report_tables,
    settings_table,
)
from experiments.terminal import attempt, make_console


@dataclass(frozen=True)
class Job:
    """Gathers runs of experiments.train into tables and figures.

    Runs that differ in their seeds alone make a row. Results are of the test set after
    the last epoch, and beside them, where there is a validation split, of the epoch
    that is best on it. Differences to plain SGD are paired by seed.
    """

    run_dirs: RunDirs = ()
    out: Annotated[
        Path | None,
        tyro.conf.arg(help="new folder for the report; none: a new one in runs/"),
    ] = None


def run(job: Job, console: Console) -> Path:
    """Reads, compares, draws; returns the folder of the report."""
    by_data, left_out = find_groups(job.run_dirs)
    if not by_data:
        reasons = "; ".join(f"{folder}: {why}" for folder, why in left_out.items())
        raise UserError(f"there is no finished run to report ({reasons}).")

    out = report_dir(job.out, "report")
    report: dict[str, Any] = {
        "data": {},
        "left_out": {str(folder): why for folder, why in left_out.items()},
    }
    sections = []
    for place, (data, groups) in enumerate(by_data.items(), start=1):
        rows, differences = group_rows(groups), difference_rows(groups)
        report["data"][data] = {"groups": rows, "differences": differences}
        for table in report_tables(data, rows, differences):
            sections.append(as_markdown(table))
            console.print(as_rich(table))
            console.print()
        sections += map(as_markdown, settings_table(data, rows))
        suffix = f"-{place}" if len(by_data) > 1 else ""
        attempt(partial(_draw, out, suffix, data, groups, rows), console)
    write_json(out / "report.json", report)
    (out / "table.md").write_text("\n".join(sections), encoding="utf-8")
    for folder, why in left_out.items():
        console.print(f"left out: {folder}, {why}", markup=False, soft_wrap=True)
    console.print(f"Everything is in {out}.", markup=False, soft_wrap=True)
    return out


def _draw(
    out: Path,
    suffix: str,
    data: str,
    groups: list[Group],
    rows: list[dict[str, Any]],
) -> None:
    """The figures of one data set."""
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
    counts = [run.class_counts[frequency_order(run.class_counts)] for run in runs]
    if any(not np.array_equal(of_run, counts[0]) for of_run in counts):
        return
    config = groups[0].config
    thresholds = shot_thresholds(data, config["imbalance_factor"], config["imbalance"])
    figures.per_class_accuracy(
        out / f"per_class_accuracy{suffix}.png",
        {group.name: _accuracy_by_rank(group.runs) for group in groups},
        counts[0],
        shot_of_class(counts[0], thresholds),
        f"{data}, last epoch, mean over seeds",
    )


def _accuracy_by_rank(runs: list[FinishedRun]) -> np.ndarray:
    """Mean over the runs, the most frequent class first, NaN where a run has none.

    Which class has which rank may depend on the seed of the subset.
    """
    of_runs = [
        np.array(run.tests["last"]["accuracy_per_class"], dtype=float)[
            frequency_order(run.class_counts)
        ]
        for run in runs
    ]
    return np.mean(of_runs, axis=0)


def main() -> None:
    """The command."""
    job = tyro.cli(Job, prog="python -m experiments.report", args=sys.argv[1:])
    run(job, make_console())


if __name__ == "__main__":
    exit_with(main)
