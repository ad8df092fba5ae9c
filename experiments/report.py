"""Finished runs as tables and figures: ``python -m experiments.report --help``."""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from experiments.cli import RunDirs
from experiments.ending import exit_with
from experiments.errors import UserError
from experiments.records.folders import report_dir
from experiments.reporting.groups import find_groups
from experiments.reporting.write import write_report
from experiments.terminal import attempt, make_console, show


@dataclass(frozen=True)
class Job:
    """Gathers runs of experiments.train into tables and figures.

    Runs that differ only in their seeds form one row. Results are on the test set after
    the last epoch and, with a validation split, after the epoch that is best on it.
    Differences are paired by seed.
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
    for part in write_report(by_data, left_out, out, partial(attempt, console=console)):
        show(part, console)
    return out


def main() -> None:
    """Runs the command."""
    job = tyro.cli(Job, prog="python -m experiments.report", args=sys.argv[1:])
    run(job, make_console())


if __name__ == "__main__":
    exit_with(main)
