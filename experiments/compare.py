"""Compares methods over seeds: ``python -m experiments.compare --help``."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console
from rich.progress import Progress

from experiments import devices
from experiments.cli import DataDir, compute_right_sums, keep_compiled
from experiments.comparison import same_compute, tuning
from experiments.comparison.seeds import (
    Outcome,
    grouped,
    make_group_trainer,
    run_group,
    seed_dataset,
)
from experiments.comparison.table import comparison_rows, markdown_table, rich_table
from experiments.config import METHODS, Config, Method
from experiments.configs import get_config, get_recipe
from experiments.ending import exit_with
from experiments.errors import UserError
from experiments.figures import runs as figures
from experiments.records.manifest import (
    as_json,
    create_run,
    describe_machine,
    free_run_dir,
    write_json,
)
from experiments.terminal import attempt, make_console
from experiments.training.trainer import Trainer


@dataclass(frozen=True)
class Job:
    """Trains every method with the same data and epochs, over several seeds.

    A seed draws the long-tailed subset, the initial weights, the data order and the
    augmentation. Differences are paired by seed.
    """

    config: Annotated[str, tyro.conf.arg(help="recipe")] = "digits_lt"
    methods: Annotated[
        tuple[Method, ...], tyro.conf.arg(help="which, in the order of the table")
    ] = METHODS
    approximations: Annotated[
        tuple[Literal["reuse_ascent", "looksam"], ...],
        tyro.conf.arg(
            help="of Focal-SAM, each trained for as long as Focal-SAM itself takes"
        ),
    ] = ()
    seeds: Annotated[int, tyro.conf.arg(help="number of seeds, counted from 0")] = 10
    epochs: Annotated[
        int | None,
        tyro.conf.arg(help="passes over the training set; none: the recipe's"),
    ] = None
    tune: Annotated[
        bool,
        tyro.conf.arg(
            help="first choose each method's hyper-parameters anew, on the validation "
            "split, from the grid in the recipe"
        ),
    ] = False
    data_dir: DataDir = Path("data")
    run_dir: Annotated[
        Path | None,
        tyro.conf.arg(help="folder for the results; none: a new one in runs/"),
    ] = None


def run(job: Job, console: Console) -> Path:
    """Trains, compares and records; returns the folder of the results."""
    recipe = get_recipe(job.config)
    if not 1 <= job.seeds <= min(tuning.SEEDS):
        raise UserError(
            f"--seeds must be from 1 to {min(tuning.SEEDS)}, got {job.seeds}: from "
            "there on seeds are for tuning."
        )
    if job.epochs is not None and job.epochs < 1:
        raise UserError(f"--epochs must be at least 1, got {job.epochs}.")
    if not recipe.base.in_memory:
        raise UserError(
            f"images of {recipe.base.image_size} pixels are streamed, and only sets in "
            "memory are compared here: run experiments.train for every method and "
            "seed, then experiments.report over the runs."
        )
    if job.tune and not recipe.grid:
        raise UserError(
            f"--tune needs a grid of candidates, and the recipe {job.config} has none: "
            "leave it out, or add a grid to the recipe."
        )
    if not job.methods:
        raise UserError(f"--methods needs at least one of {', '.join(METHODS)}.")
    if job.approximations and "focal_sam" not in job.methods:
        raise UserError(
            "--approximations are compared with Focal-SAM: add focal_sam to --methods."
        )
    epochs = job.epochs or recipe.compare_epochs or recipe.base.epochs
    configs: dict[str, Config] = {
        method: get_config(job.config, method).with_epochs(epochs)
        for method in dict.fromkeys(job.methods)
    }
    seeds = list(range(job.seeds))
    run_dir = job.run_dir or free_run_dir(Path("runs"), f"compare-{job.config}")
    manifest = {
        "config": {name: as_json(config) for name, config in configs.items()},
        "seeds": seeds,
        "tuned_anew": job.tune,
        **describe_machine(sys.argv),
    }
    create_run(run_dir, manifest)

    device_loop = devices.loops_are_fast()
    if job.tune:
        grid = recipe.grid
        configs = _tune(configs, grid, job.data_dir, run_dir, console, device_loop)
    as_long = same_compute.rows(configs, job.approximations)
    outcomes, configs = _compare(
        configs, as_long, seeds, job.data_dir, console, device_loop
    )

    rows, differences = comparison_rows(outcomes, configs)
    results = {"seeds": seeds, "rows": rows, "differences": differences}
    write_json(run_dir / "results.json", results)
    (run_dir / "table.md").write_text(
        markdown_table(rows, differences), encoding="utf-8"
    )
    title = f"{job.config}: {job.seeds} seeds, {epochs} epochs"
    console.print(rich_table(rows, differences, title))
    path = run_dir / "comparison.png"
    attempt(lambda: figures.method_comparison(path, rows, title), console)
    console.print(f"Everything is in {run_dir}.", markup=False, soft_wrap=True)
    return run_dir


def _tune(
    configs: dict[str, Config],
    grid: Mapping[Method, list[dict[str, float]]],
    data_dir: Path,
    run_dir: Path,
    console: Console,
    device_loop: bool,
) -> dict[str, Config]:
    with Progress(console=console) as progress:
        trials = sum(len(grid[method]) for method in configs)
        task = progress.add_task("tuning", total=trials)

        def report(method, candidate, accuracy):
            values = ", ".join(f"{name} {value:g}" for name, value in candidate.items())
            console.print(f"{method}, {values}: {accuracy:.1%} on validation")
            progress.advance(task)

        path = run_dir / "tuning.json"
        return tuning.tune(
            configs,
            grid,
            data_dir,
            path,
            report,
            time.perf_counter,
            device_loop=device_loop,
        )


def _compare(
    configs: dict[str, Config],
    as_long: dict[str, Config],
    seeds: list[int],
    data_dir: Path,
    console: Console,
    device_loop: bool,
) -> tuple[dict[str, list[Outcome]], dict[str, Config]]:
    """The outcomes of every row on the test set, and what each ran with.

    Rows are methods, and after them what trains for as long as Focal-SAM takes. Where
    seeds are trained one by one, all rows run with a seed before the next begins, so
    that a machine that slows down slows all of them down.
    """
    configs = configs | as_long
    outcomes: dict[str, list[Outcome]] = {name: [] for name in configs}
    trainers: dict[str, Trainer] = {}
    with Progress(console=console) as progress:
        task = progress.add_task("comparing", total=len(seeds) * len(configs))
        for group in grouped(seeds, together=device_loop):
            of_group = next(iter(configs.values()))
            datasets = [seed_dataset(of_group, seed, data_dir) for seed in group]
            for name in configs:
                progress.update(task, description=f"{name}, seed {_range(group)}")
                if name not in trainers:
                    if name in as_long:
                        configs[name] = same_compute.lengthened(
                            configs[name],
                            outcomes["focal_sam"][0].step_seconds,
                            group,
                            datasets,
                            time.perf_counter,
                            device_loop=device_loop,
                        )
                    trainers[name] = make_group_trainer(
                        configs[name], datasets, device_loop=device_loop
                    )
                outcomes[name] += run_group(
                    configs[name],
                    trainers[name],
                    group,
                    datasets,
                    "test",
                    time.perf_counter,
                )
                progress.advance(task, len(group))
    return outcomes, configs


def _range(seeds: list[int]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"


def main() -> None:
    """The command."""
    job = tyro.cli(Job, prog="python -m experiments.compare", args=sys.argv[1:])
    compute_right_sums()
    keep_compiled()
    run(job, make_console())


if __name__ == "__main__":
    exit_with(main)
