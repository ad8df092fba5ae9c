"""Trains one network on long-tailed data: ``python -m experiments.train --help``."""

import argparse
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import tyro
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from experiments import figures
from experiments.checkpoint import Checkpoints
from experiments.config import METHODS, Config
from experiments.configs import get_config
from experiments.data.dataset import Dataset, Split
from experiments.data.load import load_dataset
from experiments.errors import UserError, exit_with
from experiments.evaluation import evaluation_batches, scores
from experiments.metrics import SHOT_THRESHOLDS, SHOTS, shot_of_class
from experiments.records import (
    MetricsFile,
    create_run,
    describe_run,
    free_run_dir,
    read_manifest,
    read_metrics,
)
from experiments.step import TrainState
from experiments.trainer import Trainer, make_trainer


@dataclass(frozen=True)
class Job:
    """Trains one network on long-tailed data and reports its last epoch."""

    config: Annotated[Config, tyro.conf.arg(name="")]
    data_dir: Annotated[
        Path, tyro.conf.arg(help="folder of data sets; digits_lt brings its own")
    ] = Path("data")
    run_dir: Annotated[
        Path | None,
        tyro.conf.arg(help="folder of this run; none: a new one in runs/"),
    ] = None
    resume: Annotated[
        bool, tyro.conf.arg(help="go on from the last checkpoint in --run-dir")
    ] = False


def parse(arguments: list[str]) -> Job:
    """The job that a command line describes.

    The recipe and the method are read first: they set the defaults of the rest.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", default="digits_lt")
    first.add_argument("--method", default="focal_sam")
    known, _ = first.parse_known_args(arguments)
    method = known.method if known.method in METHODS else "focal_sam"
    default = Job(config=get_config(known.config, method))
    return tyro.cli(
        Job, prog="python -m experiments.train", args=arguments, default=default
    )


def run(job: Job, console: Console) -> Path:
    """Trains, evaluates and records; returns the folder of the run."""
    config = job.config
    if job.resume and job.run_dir is None:
        raise UserError(
            "--resume needs --run-dir, the folder of the run to go on with."
        )
    run_dir = job.run_dir or free_run_dir(
        Path("runs"), f"{config.config}-{config.method}-seed{config.seed}"
    )
    dataset = load_dataset(config)
    trainer = make_trainer(config, dataset)
    key = jax.random.key(config.seed)
    template = jax.eval_shape(trainer.init, key)

    if job.resume:
        read_manifest(run_dir)
        checkpoints = Checkpoints(run_dir, config)
        start, state = checkpoints.restore(template)
    else:
        num_params = sum(math.prod(p.shape) for p in jax.tree.leaves(template.params))
        create_run(run_dir, describe_run(config, dataset, num_params, sys.argv))
        checkpoints = Checkpoints(run_dir, config)
        start, state = 0, trainer.init(key)
    records = MetricsFile(run_dir, keep_until_epoch=start)

    console.print(
        f"[bold]{config.config}, {config.method}[/bold]: "
        f"{len(dataset.train.labels)} images in {len(dataset.class_counts)} classes, "
        f"{config.epochs} epochs of {trainer.steps_per_epoch} steps, into {run_dir}"
    )
    state = _train(
        config, dataset, trainer, state, key, start, records, checkpoints, console
    )
    checkpoints.close()

    result = _evaluate(config, dataset, trainer, state, dataset.test)
    records.append(
        {
            "split": "test",
            "epoch": config.epochs,
            "step": config.epochs * trainer.steps_per_epoch,
            **result,
        }
    )
    _draw(run_dir, config, dataset, result)
    console.print(_result_table(result, dataset, config))
    console.print(f"Everything is in {run_dir}.")
    return run_dir


def _train(
    config: Config,
    dataset: Dataset,
    trainer: Trainer,
    state: TrainState,
    key: jax.Array,
    start: int,
    records: MetricsFile,
    checkpoints: Checkpoints,
    console: Console,
) -> TrainState:
    """Epochs ``start + 1`` to the last."""
    data = jax.device_put(dataset.train)
    images_per_epoch = trainer.steps_per_epoch * min(
        config.batch_size, len(dataset.train.labels)
    )
    progress = Progress(
        TextColumn("epoch"),
        MofNCompleteColumn(),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
        console=console,
    )
    validation = math.nan
    with progress:
        task = progress.add_task("compiling", total=config.epochs, completed=start)
        for epoch in range(start + 1, config.epochs + 1):
            began = time.perf_counter()
            state, metrics = trainer.run_epoch(state, data, key, epoch - 1)
            metrics = {name: float(value) for name, value in metrics.items()}
            seconds = time.perf_counter() - began
            _check_finite(metrics, epoch)
            step = epoch * trainer.steps_per_epoch
            row = {"split": "train", "epoch": epoch, "step": step}
            records.append({**row, **metrics, "seconds": seconds})

            last = epoch == config.epochs
            if last or epoch % config.eval_every == 0:
                result = _evaluate(config, dataset, trainer, state, dataset.validation)
                validation = result["accuracy"]
                records.append({**row, **result, "split": "validation"})
            if last or epoch % config.checkpoint_every == 0:
                checkpoints.save(epoch, state)
            progress.update(
                task,
                completed=epoch,
                description=f"loss {metrics['loss']:.3f}, held-out accuracy "
                f"{validation:.1%}, {images_per_epoch / seconds:,.0f} images/s",
            )
    return state


def _evaluate(
    config: Config,
    dataset: Dataset,
    trainer: Trainer,
    state: TrainState,
    split: Split,
) -> dict[str, Any]:
    sums = trainer.evaluate(state, evaluation_batches(split))
    return scores(sums, split, dataset, SHOT_THRESHOLDS[config.config])


def _check_finite(metrics: dict[str, float], epoch: int) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise UserError(
                f"{name} became {value} in epoch {epoch}: training has diverged. Lower "
                "--learning-rate or --rho; the last checkpoint is from before."
            )


def _draw(
    run_dir: Path, config: Config, dataset: Dataset, result: dict[str, Any]
) -> None:
    title = f"{config.config}, {config.method}, seed {config.seed}"
    figures.per_class_accuracy(
        run_dir / "per_class_accuracy.png",
        result["accuracy_per_class"],
        dataset.class_counts,
        dataset.class_names,
        shot_of_class(dataset.class_counts, SHOT_THRESHOLDS[config.config]),
        title,
    )
    figures.training_curves(
        run_dir / "training_curves.png", read_metrics(run_dir), title
    )


def _result_table(result: dict[str, Any], dataset: Dataset, config: Config) -> Table:
    shots = shot_of_class(dataset.class_counts, SHOT_THRESHOLDS[config.config])
    table = Table(title="Test accuracy after the last epoch")
    table.add_column("classes")
    table.add_column("training examples", justify="right")
    table.add_column("accuracy", justify="right")
    for shot in SHOTS:
        counts = dataset.class_counts[shots == shot]
        if len(counts):
            spread = f"{counts.min()} to {counts.max()} each"
            table.add_row(shot, spread, f"{result[f'accuracy_{shot}']:.1%}")
    table.add_section()
    total = f"{dataset.class_counts.sum()} in all"
    table.add_row("overall", total, f"{result['accuracy']:.1%}", style="bold")
    return table


def main() -> None:
    """The command."""
    run(parse(sys.argv[1:]), Console())


if __name__ == "__main__":
    exit_with(main)
