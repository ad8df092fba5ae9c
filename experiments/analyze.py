"""Sharpness of networks for head and tail: ``python -m experiments.analyze``."""

import sys
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments import devices
from experiments.cli import DataDir, RunDirs, prepare_jax
from experiments.ending import exit_with
from experiments.errors import UserError
from experiments.figures import sharpness as pictures
from experiments.figures.style import frequency_order
from experiments.records.folders import report_dir
from experiments.records.manifest import describe_machine, write_json
from experiments.reporting.groups import Group, find_groups
from experiments.reporting.tables import as_markdown, as_rich
from experiments.sharpness.measure import (
    Landscape,
    Settings,
    landscape,
    measure,
    open_subject,
    spectrum,
)
from experiments.sharpness.summary import Measured, summaries, tables, verdict
from experiments.terminal import attempt, make_console

_HEAD, _TAIL = "many", "few"


@dataclass(frozen=True)
class Job:
    """Measures how sharp the loss of head and tail classes is in finished runs.

    The last checkpoint of every run is measured on its training set. Runs that differ
    only in their seeds form one row; landscapes show the first seed.
    """

    run_dirs: RunDirs = ()
    out: Annotated[
        Path | None,
        tyro.conf.arg(help="new folder for the analysis; none: a new one in runs/"),
    ] = None
    data_dir: DataDir = Path("data")
    data: Annotated[
        str | None,
        tyro.conf.arg(
            help="--data of the runs, if your data have moved; none: as in training"
        ),
    ] = None
    settings: Annotated[Settings, tyro.conf.arg(name="")] = field(
        default_factory=Settings
    )


def run(job: Job, console: Console) -> Path:
    """Measures, compares, draws; returns the folder of the analysis."""
    groups = _groups(job.run_dirs, console)
    out = report_dir(job.out, "analysis")
    measured, spectra, planes = _measure_all(groups, job, console)
    radii = {name: x for name, x in asdict(job.settings).items() if "rho" in name}
    rows = summaries(measured)
    words = verdict(measured, (_TAIL, _HEAD), radii)
    write_json(
        out / "analysis.json",
        {
            **describe_machine(["python", "-m", "experiments.analyze", *sys.argv[1:]]),
            "settings": asdict(job.settings),
            "groups": rows,
            "words": words,
            "runs": {
                str(run.folder): numbers
                for group, of_group in zip(groups, measured, strict=True)
                for run, numbers in zip(group.runs, of_group.numbers, strict=True)
            },
        },
    )
    draw = partial(_draw, out, groups, measured, spectra, planes, job.settings)
    attempt(draw, console)
    made = tables(rows, radii)
    text = [as_markdown(table) for table in made] + [f"{line}\n" for line in words]
    (out / "table.md").write_text("\n".join(text), encoding="utf-8")
    for table in made:
        console.print(as_rich(table))
        console.print()
    for line in words:
        console.print(line, markup=False, highlight=False)
        console.print()
    console.print(f"Everything is in {out}.", markup=False, soft_wrap=True)
    return out


def _groups(paths: tuple[Path, ...], console: Console) -> list[Group]:
    """Returns the groups to compare; their data set and class counts must match."""
    by_data, left_out = find_groups(paths)
    for folder, why in left_out.items():
        console.print(f"left out: {folder}, {why}", markup=False, soft_wrap=True)
    if not by_data:
        raise UserError("there is no finished run to analyze.")
    counts = {
        tuple(sorted(run.class_counts.tolist()))
        for groups in by_data.values()
        for group in groups
        for run in group.runs
    }
    if len(by_data) > 1 or len(counts) > 1:
        raise UserError(
            "only runs with the same data and class sizes can be compared, but these "
            f"runs differ (data: {', '.join(by_data)}): analyze each set of runs in a "
            "command of its own."
        )
    (groups,) = by_data.values()
    return groups


def _measure_all(
    groups: list[Group], job: Job, console: Console
) -> tuple[list[Measured], dict[str, dict[str, list[Any]]], dict[str, Landscape]]:
    """Measures numbers, spectra by class group and group of runs, and landscapes."""
    mesh = devices.device_mesh(1)
    key, settings = jax.random.key(0), job.settings
    measured, planes = [], {}
    spectra: dict[str, dict[str, list[Any]]] = {_HEAD: {}, _TAIL: {}}
    columns = (
        TextColumn("{task.description}"),
        MofNCompleteColumn(),
        TextColumn("runs"),
        TimeElapsedColumn(),
    )
    number = sum(len(group.runs) for group in groups)
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=number)
        for group in groups:
            numbers = []
            for place, finished in enumerate(group.runs):
                name = f"{group.name}, seed {finished.seeds[0]}"

                def show(what, name=name):
                    progress.update(task, description=f"{name}: {what}")

                if not console.is_terminal:
                    done = int(progress.tasks[task].completed)
                    said = f"measuring run {done + 1} of {number}: {name}"
                    console.print(said, markup=False)
                show("reading")
                subject = open_subject(
                    finished.folder,
                    job.data_dir,
                    mesh,
                    job.data,
                    settings.images_per_class,
                )
                numbers.append(measure(subject, settings, key, show))
                for shot, by_method in spectra.items():
                    show(f"spectrum, {shot}")
                    density = spectrum(subject, shot, settings, key)
                    if density is not None:
                        by_method.setdefault(group.name, []).append(density)
                if place == 0:
                    show("landscape")
                    planes[group.name] = landscape(subject, settings, key)
                progress.advance(task)
            seeds = [finished.seeds for finished in group.runs]
            method = group.config["method"]
            measured.append(Measured(group.name, method, seeds, numbers))
    return measured, {s: found for s, found in spectra.items() if found}, planes


def _draw(
    out: Path,
    groups: list[Group],
    measured: list[Measured],
    spectra: dict[str, dict[str, list[Any]]],
    planes: dict[str, Landscape],
    settings: Settings,
) -> None:
    counts = groups[0].runs[0].class_counts
    curves = {
        group.name: np.array(
            [
                np.array(numbers["classes"]["ascent"], float)[
                    frequency_order(run.class_counts)
                ]
                for run, numbers in zip(group.runs, of_group.numbers, strict=True)
            ]
        )
        for group, of_group in zip(groups, measured, strict=True)
    }
    pictures.class_sharpness(
        out / "class_sharpness.png",
        curves,
        counts[frequency_order(counts)],
        f"worst rise of the class's mean loss within {settings.rho:g}",
    )
    if spectra:
        title = "Hessian of the training loss, mean over the classes of a group"
        pictures.spectra(out / "spectra.png", spectra, title)
    pictures.landscapes(out / "landscapes.png", planes, (_HEAD, _TAIL))


def main() -> None:
    """Runs the command."""
    job = tyro.cli(Job, prog="python -m experiments.analyze", args=sys.argv[1:])
    prepare_jax()
    run(job, make_console())


if __name__ == "__main__":
    exit_with(main)
