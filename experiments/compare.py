"""Compares methods over seeds: ``python -m experiments.compare --help``."""

import shlex
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import Progress

from experiments import devices
from experiments.cli import DataDir, prepare_jax
from experiments.comparison import same_compute, tuning
from experiments.comparison.folders import run_folder, save_run
from experiments.comparison.seeds import (
    Outcome,
    grouped,
    make_group_trainer,
    run_group,
    seed_dataset,
)
from experiments.config import METHODS, Config, Loss, Method
from experiments.configs import get_config, get_recipe
from experiments.configs.recipe import Recipe
from experiments.data.dataset import Dataset
from experiments.ending import exit_with
from experiments.errors import UserError
from experiments.records.folders import (
    check_run_dir,
    locked,
    make_folder,
    new_run_dir,
)
from experiments.records.manifest import (
    MANIFEST,
    RUNS,
    as_json,
    config_of,
    create_run,
    describe_machine,
    read_manifest,
)
from experiments.reporting.groups import find_groups
from experiments.reporting.write import write_report
from experiments.terminal import attempt, make_console, show
from experiments.training.trainer import Trainer


@dataclass(frozen=True)
class Job:
    """Trains every method with the same data and epochs, over several seeds.

    A seed decides the long-tailed subset, initial weights, data order and augmentation.
    Differences are paired by seed. Every run is kept in its own folder, in the format
    of experiments.train, for experiments.report and experiments.analyze.
    """

    config: Annotated[str, tyro.conf.arg(help="recipe")] = "digits_lt"
    methods: Annotated[
        tuple[Method, ...],
        tyro.conf.arg(help="methods to train, in the order of the table"),
    ] = METHODS
    approximations: Annotated[
        tuple[Literal["reuse_ascent", "looksam"], ...],
        tyro.conf.arg(
            help="approximations of Focal-SAM, each trained for as long as Focal-SAM"
        ),
    ] = ()
    loss: Annotated[Loss | None, tyro.conf.arg(help="loss; none: the recipe's")] = None
    seeds: Annotated[int, tyro.conf.arg(help="number of seeds, counted from 0")] = 10
    epochs: Annotated[
        int | None,
        tyro.conf.arg(help="passes over the training set; none: the recipe's"),
    ] = None
    tune: Annotated[
        bool,
        tyro.conf.arg(
            help="first tune each method's hyper-parameters on the validation split, "
            "over the grid in the recipe"
        ),
    ] = False
    data_dir: DataDir = Path("data")
    run_dir: Annotated[
        Path | None,
        tyro.conf.arg(help="folder for the results; none: a new one in runs/"),
    ] = None
    resume: Annotated[
        bool,
        tyro.conf.arg(
            help="continue the comparison in --run-dir: finished runs are kept, and "
            "--seeds may be larger than before"
        ),
    ] = False


def run(job: Job, console: Console) -> Path:
    """Trains, compares and records; returns the folder of the results."""
    recipe = get_recipe(job.config)
    if not 1 <= job.seeds <= min(tuning.SEEDS):
        raise UserError(
            f"--seeds must be from 1 to {min(tuning.SEEDS)}, got {job.seeds}: larger "
            "seeds are used for tuning."
        )
    if job.epochs is not None and job.epochs < 1:
        raise UserError(f"--epochs must be at least 1, got {job.epochs}.")
    if not recipe.base.in_memory:
        raise UserError(
            f"images of {recipe.base.image_size} pixels are streamed, but compare "
            "needs data in memory: run experiments.train for every method and seed, "
            "then experiments.report on the runs."
        )
    if job.tune and not recipe.grid:
        raise UserError(
            f"--tune needs a grid of candidates, and the recipe {job.config} has none: "
            "leave it out, or add a grid to the recipe."
        )
    if missing := [m for m in job.methods if job.tune and m not in recipe.grid]:
        raise UserError(
            f"--tune has no candidates for {', '.join(missing)} in the recipe "
            f"{job.config}: leave them out of --methods, or add them to its grid."
        )
    if not job.methods:
        raise UserError(f"--methods needs at least one of {', '.join(METHODS)}.")
    if job.approximations and "focal_sam" not in job.methods:
        raise UserError(
            "--approximations are compared with Focal-SAM: add focal_sam to --methods."
        )
    if job.resume and job.run_dir is None:
        raise UserError("--resume needs --run-dir, the folder of the comparison.")
    epochs = job.epochs or recipe.compare_epochs or recipe.base.epochs
    configs: dict[str, Config] = {
        method: get_config(job.config, method, job.loss).with_epochs(epochs)
        for method in dict.fromkeys(job.methods)
    }
    # This comes first: if the data are missing, no folder is made.
    seed_dataset(next(iter(configs.values())), 0, job.data_dir)
    check_run_dir(job.run_dir or Path())
    run_dir = job.run_dir or new_run_dir(f"compare-{job.config}")
    make_folder(run_dir, "--run-dir")
    with locked(run_dir):
        _open(job, run_dir, configs)
        device_loop = devices.loops_are_fast()
        if job.tune:
            configs = _tune(configs, recipe, job, run_dir, console, device_loop)
        _train_all(configs, job, run_dir, console, device_loop)
    by_data, left_out = find_groups([run_dir / RUNS])
    draw = partial(attempt, console=console)
    for part in write_report(by_data, left_out, run_dir, draw):
        show(part, console)
    return run_dir


def _open(job: Job, run_dir: Path, configs: dict[str, Config]) -> None:
    """Creates the records of a comparison, or checks those of the one to resume."""
    options = {
        "config": {name: as_json(config) for name, config in configs.items()},
        "tuned_anew": job.tune,
    }
    if not (job.resume and (run_dir / MANIFEST).exists()):
        create_run(run_dir, {**options, **describe_machine(sys.argv)})
        return
    manifest = read_manifest(run_dir)
    if any(manifest.get(name) != value for name, value in options.items()):
        raise UserError(
            f"{run_dir} contains a comparison with other options, `{_told(manifest)}`: "
            "pass those again, or another --run-dir."
        )


def _told(manifest: dict[str, Any]) -> str:
    return shlex.join(["experiments.compare", *manifest.get("command", [])[1:]])


def _tune(
    configs: dict[str, Config],
    recipe: Recipe,
    job: Job,
    run_dir: Path,
    console: Console,
    device_loop: bool,
) -> dict[str, Config]:
    with Progress(console=console) as progress:
        trials = sum(len(recipe.grid[method]) for method in configs)
        task = progress.add_task("tuning", total=trials)

        def report(method, candidate, accuracy):
            values = ", ".join(f"{name} {value:g}" for name, value in candidate.items())
            console.print(f"{method}, {values}: {accuracy:.1%} on validation")
            progress.advance(task)

        chosen = tuning.tune(
            {name: c.replace(**recipe.tuning) for name, c in configs.items()},
            recipe.grid,
            tuning.SEEDS[: recipe.tuning_seeds],
            job.data_dir,
            run_dir / "tuning.json",
            report,
            time.perf_counter,
            device_loop=device_loop,
        )
    as_before = {name: getattr(recipe.base, name) for name in recipe.tuning}
    return {name: config.replace(**as_before) for name, config in chosen.items()}


def _train_all(
    configs: dict[str, Config],
    job: Job,
    run_dir: Path,
    console: Console,
    device_loop: bool,
) -> None:
    """Trains and saves every run that does not exist yet.

    Rows are the methods, then the runs that train for as long as Focal-SAM takes. If
    seeds are trained one by one, all rows run with one seed before the next begins, so
    that a slowdown of the machine affects all rows.
    """
    as_long = same_compute.rows(configs, job.approximations)
    trainers: dict[str, Trainer] = {}
    seeds, clock = list(range(job.seeds)), time.perf_counter
    with Progress(console=console) as progress:
        task = progress.add_task("comparing", total=len(seeds) * len(configs | as_long))
        for group in grouped(seeds, together=device_loop):
            for name, config in (configs | as_long).items():
                left = [s for s in group if not run_folder(run_dir, name, s).exists()]
                progress.advance(task, len(group) - len(left))
                if not left:
                    continue
                progress.update(task, description=f"{name}, seed {_range(left)}")
                datasets = [seed_dataset(config, seed, job.data_dir) for seed in left]
                if name in as_long:
                    config = as_long[name] = _lengthened(
                        config,
                        configs["focal_sam"],
                        run_dir,
                        name,
                        left,
                        datasets,
                        device_loop,
                    )
                if name not in trainers or device_loop:
                    trainers[name] = make_group_trainer(
                        config, datasets, device_loop=device_loop
                    )
                trainer = trainers[name]
                outcomes = run_group(config, trainer, left, datasets, "test", clock)
                done = zip(left, datasets, outcomes, strict=True)
                for seed, dataset, outcome in done:
                    folder = run_folder(run_dir, name, seed)
                    _check_learned(name, seed, outcome)
                    own = config.replace(seed=seed, subset_seed=seed)
                    save_run(folder, own, dataset, trainer.frozen, outcome, sys.argv)
                    accuracy = outcome.scores["accuracy"]
                    console.print(f"{name}, seed {seed}: {accuracy:.1%} on test images")
                    if skipped := int(outcome.state.skipped.total):
                        said = f"{name}, seed {seed}: {skipped} steps were skipped."
                        console.print(said, style="yellow")
                progress.advance(task, len(left))


def _check_learned(name: str, seed: int, outcome: Outcome) -> None:
    """Raises a ``UserError`` if ``train`` would have stopped with one."""
    skipped = outcome.state.skipped
    if int(skipped.stalled_at) >= 0 or int(skipped.total) == int(outcome.state.step):
        raise UserError(
            f"{name}, seed {seed}: loss or gradient was not finite in {skipped.total} "
            f"of {outcome.state.step} steps, so training diverged: leave it out of "
            "--methods, or lower its learning rate or radius in the recipe."
        )


def _lengthened(
    config: Config,
    reference: Config,
    run_dir: Path,
    name: str,
    group: list[int],
    datasets: list[Dataset],
    device_loop: bool,
) -> Config:
    """Returns ``config`` with the epochs that take as long as Focal-SAM.

    If seed 0 of the row is finished, its epochs are used.
    """
    first = run_folder(run_dir, name, 0)
    if first.exists():
        return config.with_epochs(config_of(read_manifest(first)).epochs)
    return same_compute.lengthened(
        config,
        reference,
        group,
        datasets,
        time.perf_counter,
        device_loop=device_loop,
    )


def _range(seeds: list[int]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"


def main() -> None:
    """Runs the command."""
    job = tyro.cli(Job, prog="python -m experiments.compare", args=sys.argv[1:])
    prepare_jax()
    run(job, make_console())


if __name__ == "__main__":
    exit_with(main)
