"""Compares methods over seeds: ``python -m experiments.compare --help``."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress

from experiments import figures
from experiments.config import METHODS, Config, Method
from experiments.configs import get_config, get_recipe
from experiments.data.dataset import Dataset
from experiments.errors import UserError, exit_with
from experiments.records import create_run, describe_machine, free_run_dir, write_json
from experiments.seeds import Outcome, run_seed, run_seeds_at_once, seed_datasets
from experiments.tables import comparison_rows, markdown_table, rich_table
from experiments.trainer import Trainer, make_trainer, scan_is_fast

SAME_COMPUTE = "sgd, same compute"
# Seeds of the search for hyper-parameters; reported seeds count from 0.
_TUNING_SEEDS = [1000, 1001, 1002, 1003, 1004]


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
    seeds: Annotated[int, tyro.conf.arg(help="number of seeds, counted from 0")] = 5
    epochs: Annotated[
        int | None,
        tyro.conf.arg(help="passes over the training set; none: the recipe's"),
    ] = None
    tune: Annotated[
        bool,
        tyro.conf.arg(
            help="first choose each method's hyper-parameters anew, on the validation "
            "part, from the grid in the recipe"
        ),
    ] = False
    data_dir: Annotated[
        Path, tyro.conf.arg(help="folder of data sets; digits_lt brings its own")
    ] = Path("data")
    run_dir: Annotated[
        Path | None,
        tyro.conf.arg(help="folder for the results; none: a new one in runs/"),
    ] = None


def run(job: Job, console: Console) -> Path:
    """Trains, compares and records; returns the folder of the results."""
    recipe = get_recipe(job.config)
    if job.seeds < 1:
        raise UserError(f"--seeds must be at least 1, got {job.seeds}.")
    if not job.methods:
        raise UserError(f"--methods needs at least one of {', '.join(METHODS)}.")
    epochs = recipe.COMPARE_EPOCHS if job.epochs is None else job.epochs
    configs = {
        method: get_config(job.config, method).replace(epochs=epochs)
        for method in dict.fromkeys(job.methods)
    }
    run_dir = job.run_dir or free_run_dir(Path("runs"), f"compare-{job.config}")
    create_run(run_dir, {"recipe": job.config, "epochs": epochs, **describe_machine()})
    if job.tune:
        configs = _tune(configs, recipe.GRID, run_dir, console)

    outcomes, configs = _compare(configs, list(range(job.seeds)), console)
    rows, differences = comparison_rows(outcomes, configs)
    write_json(
        run_dir / "results.json",
        {
            "seeds": list(range(job.seeds)),
            "rows": rows,
            "differences": differences,
        },
    )
    title = f"{job.config}: {job.seeds} seeds, {epochs} epochs"
    (run_dir / "table.md").write_text(markdown_table(rows, differences))
    figures.method_comparison(run_dir / "comparison.png", rows, title)
    console.print(rich_table(rows, differences, title))
    console.print(f"Everything is in {run_dir}.")
    return run_dir


def _compare(
    configs: dict[str, Config], seeds: list[int], console: Console
) -> tuple[dict[str, list[Outcome]], dict[str, Config]]:
    """The outcomes of every method on the test set, and what each ran with.

    Where seeds are trained one by one, all methods run with a seed before the next
    begins, so that a machine that slows down slows all of them down.
    """
    configs = dict(configs)
    groups = [seeds] if scan_is_fast() else [[seed] for seed in seeds]
    same_compute = {"sgd", "focal_sam"} <= configs.keys()
    outcomes: dict[str, list[Outcome]] = {name: [] for name in configs}
    trainers: dict[str, Trainer] = {}
    with Progress(console=console) as progress:
        runs = len(seeds) * (len(configs) + same_compute)
        task = progress.add_task("comparing", total=runs)

        def train(name, group, datasets):
            if name not in trainers:
                trainers[name] = make_trainer(
                    configs[name], datasets[0], over_seeds=scan_is_fast()
                )
            progress.update(task, description=f"{name}, seed {_range(group)}")
            outcomes[name] += _run_group(
                configs[name], trainers[name], group, datasets, "test"
            )
            progress.advance(task, len(group))

        for group in groups:
            datasets = seed_datasets(next(iter(configs.values())), group)
            for name in list(configs):
                if name != SAME_COMPUTE:
                    train(name, group, datasets)
            if same_compute:
                if SAME_COMPUTE not in configs:
                    configs[SAME_COMPUTE] = _lengthened(configs, outcomes)
                    outcomes[SAME_COMPUTE] = []
                train(SAME_COMPUTE, group, datasets)
    return outcomes, configs


def _lengthened(
    configs: dict[str, Config], outcomes: dict[str, list[Outcome]]
) -> Config:
    """SGD with the epochs it can make in the time that Focal-SAM's take."""
    ratio = outcomes["focal_sam"][0].step_seconds / outcomes["sgd"][0].step_seconds
    epochs = max(1, round(ratio * configs["sgd"].epochs))
    return configs["sgd"].replace(epochs=epochs)


def _tune(
    configs: dict[str, Config],
    grid: dict[Method, list[dict[str, float]]],
    run_dir: Path,
    console: Console,
) -> dict[str, Config]:
    """The best candidate of each method by mean validation accuracy."""
    chosen, trials = {}, []
    datasets = seed_datasets(next(iter(configs.values())), _TUNING_SEEDS)
    groups = (
        [list(zip(_TUNING_SEEDS, datasets, strict=True))]
        if scan_is_fast()
        else [[pair] for pair in zip(_TUNING_SEEDS, datasets, strict=True)]
    )
    with Progress(console=console) as progress:
        task = progress.add_task("tuning", total=sum(len(grid[m]) for m in configs))
        for method, config in configs.items():
            results = []
            for changes in grid[method]:
                candidate = config.replace(**changes)
                trainer = make_trainer(
                    candidate, datasets[0], over_seeds=scan_is_fast()
                )
                outcomes = []
                for group in groups:
                    seeds, sets = zip(*group, strict=True)
                    outcomes += _run_group(
                        candidate, trainer, list(seeds), list(sets), "validation"
                    )
                accuracy = [outcome.scores["accuracy"] for outcome in outcomes]
                results.append(sum(accuracy) / len(accuracy))
                trials.append(
                    {"method": method, "changes": changes, "validation": accuracy}
                )
                progress.update(
                    task,
                    advance=1,
                    description=f"{method} {changes}: {results[-1]:.1%}",
                )
                write_json(
                    run_dir / "tuning.json", {"seeds": _TUNING_SEEDS, "trials": trials}
                )
            best = grid[method][results.index(max(results))]
            chosen[method] = config.replace(**best)
            console.print(f"tuned {method}: {best} ({max(results):.1%} on validation)")
    return chosen


def _run_group(
    config: Config,
    trainer: Trainer,
    seeds: list[int],
    datasets: list[Dataset],
    part: str,
) -> list[Outcome]:
    if scan_is_fast():
        return run_seeds_at_once(config, trainer, seeds, datasets, part)
    return [
        run_seed(config, trainer, seed, dataset, part)
        for seed, dataset in zip(seeds, datasets, strict=True)
    ]


def _range(seeds: list[int]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"


def main() -> None:
    """The command."""
    job = tyro.cli(Job, prog="python -m experiments.compare", args=sys.argv[1:])
    run(job, Console())


if __name__ == "__main__":
    exit_with(main)
