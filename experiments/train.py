"""Trains one network on long-tailed data: ``python -m experiments.train --help``."""

import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich.console import Console

from experiments import figures, hosts, sharding
from experiments.arguments import arguments_of
from experiments.checkpoint import Best, Checkpoints
from experiments.compiled import compute_right_sums, keep_compiled
from experiments.config import Config
from experiments.data.dataset import Dataset
from experiments.data.load import load_dataset
from experiments.errors import UserError, exit_with
from experiments.evaluation import shots
from experiments.feeds import make_feed
from experiments.loop import Run, fit, judge
from experiments.recorder import Recorder
from experiments.records import (
    Sizes,
    check_same_config,
    create_run,
    describe_run,
    free_run_dir,
    read_manifest,
    read_metrics,
)
from experiments.step import EvalSums, TrainState
from experiments.terminal import RunProgress, result_table
from experiments.trainer import Trainer, make_trainer
from experiments.training_sharpness import check_sharpness

# With more classes a class would be less than a dot.
_LARGEST_MATRIX = 1000


@dataclass(frozen=True)
class Job:
    """Trains one network on long-tailed data and reports its last epoch.

    Where a validation part was held out, its best epoch is reported beside it.
    """

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
    workers: Annotated[
        int, tyro.conf.arg(help="processes that read images; 0: threads only")
    ] = 0
    devices: Annotated[
        int | None, tyro.conf.arg(help="how many to train on; none: all")
    ] = None
    split_state: Annotated[
        bool,
        tyro.conf.arg(help="split weights and optimizer state over the devices"),
    ] = False
    coordinator: Annotated[
        str | None,
        tyro.conf.arg(
            help="host:port of the first of several processes; found by itself on TPU "
            "pods and under SLURM"
        ),
    ] = None
    num_processes: Annotated[
        int | None, tyro.conf.arg(help="how many processes, with --coordinator")
    ] = None
    process_id: Annotated[
        int | None, tyro.conf.arg(help="which of them this is, with --coordinator")
    ] = None


def parse(arguments: list[str]) -> Job:
    """The job that a command line describes."""
    return arguments_of(Job, "python -m experiments.train", arguments)


def run(job: Job, console: Console) -> Path:
    """Trains, evaluates and records; returns the folder of the run."""
    config = job.config
    run_dir = _run_dir(job)
    check_sharpness(config)
    mesh = sharding.device_mesh(job.devices)
    dataset = load_dataset(config, job.data_dir)
    trainer = make_trainer(config, dataset, mesh, split_state=job.split_state)
    key = sharding.random_key(config.seed, mesh)
    # Before the folder, which is not made if the weights to start from are not there.
    state = None if job.resume else trainer.init(jax.random.key(config.seed))
    _open_run(job, run_dir, dataset, trainer)

    checkpoints = Checkpoints(run_dir, config, trainer.shapes)
    latest = checkpoints.latest()
    # A run that was killed before its first checkpoint begins again.
    if latest is not None:
        step, state, best = checkpoints.restore(latest)
    else:
        step, best = 0, Best()
        state = state or trainer.init(jax.random.key(config.seed))
    records = Recorder(run_dir, keep_until_step=step, writes=hosts.is_first())
    feed = make_feed(config, dataset, trainer, mesh, key, job.workers)

    console.print(
        f"[bold]{config.config}, {config.method}[/bold]: "
        f"{len(dataset.train.labels)} images in {len(dataset.class_counts)} classes, "
        f"{config.epochs} epochs of {trainer.steps_per_epoch} steps, on "
        f"{mesh.size} {jax.devices()[0].device_kind}, into {run_dir}"
    )
    try:
        with RunProgress(config, trainer, console) as progress:
            whole = Run(
                config,
                dataset,
                trainer,
                feed,
                key,
                checkpoints,
                records,
                time.perf_counter,
                progress.show,
            )
            state, best = fit(whole, step, state, best)
        result = _report(whole, state, best, run_dir)
    finally:
        feed.close()
        checkpoints.close()
        records.close()
    console.print(result_table(result, dataset.class_counts, config))
    console.print(f"Everything is in {run_dir}.")
    return run_dir


def _run_dir(job: Job) -> Path:
    config = job.config
    if job.run_dir is not None:
        return job.run_dir
    if job.resume:
        raise UserError(
            "--resume needs --run-dir, the folder of the run to go on with."
        )
    if jax.process_count() > 1:
        raise UserError("several processes need --run-dir, a folder that all can see.")
    name = f"{config.config}-{config.method}-seed{config.seed}"
    return free_run_dir(Path("runs"), name)


def _open_run(job: Job, run_dir: Path, dataset: Dataset, trainer: Trainer) -> None:
    """Starts the records of a new run, or finds those of the one to go on with."""
    problem = None
    if hosts.is_first():
        try:
            if job.resume:
                check_same_config(read_manifest(run_dir)["config"], job.config)
            else:
                sizes = Sizes(*map(_size, (trainer.shapes.params, trainer.frozen)))
                manifest = describe_run(job.config, dataset, sizes, sys.argv)
                create_run(run_dir, manifest)
        except UserError as error:
            problem = error
    hosts.agree(problem)


def _size(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def _report(
    run: Run, state: TrainState, best: Best, run_dir: Path
) -> dict[str, dict[str, Any]]:
    """Judges the last state, and the best on the validation part, on the test part."""
    config, dataset = run.config, run.dataset
    last_step = config.epochs * run.trainer.steps_per_epoch
    judged = {"last": (last_step, state)}
    if best.step:
        run.checkpoints.wait()
        judged["best on held-out"] = (best.step, run.checkpoints.restore(best.step)[1])
    results = {}
    for which, (step, of_step) in judged.items():
        result, sums = judge(run, of_step, dataset.test)
        epoch = step // run.trainer.steps_per_epoch
        results[which] = {"epoch": epoch, **result}
        row = {"split": "test", "which": which.split()[0], "epoch": epoch, "step": step}
        run.records.append({**row, **result})
        if which == "last" and hosts.is_first():
            _keep(run_dir, config, dataset, result, sums)
    return results


def _keep(
    run_dir: Path,
    config: Config,
    dataset: Dataset,
    result: dict[str, Any],
    sums: EvalSums,
) -> None:
    """The figures of a run, and its confusion matrix as numbers."""
    title = f"{config.config}, {config.method}, seed {config.seed}"
    counts, names = dataset.class_counts, dataset.class_names
    groups = shots(counts, config)
    np.savez_compressed(run_dir / "confusion.npz", confusion=sums.confusion)
    if len(counts) <= _LARGEST_MATRIX:
        path = run_dir / "confusion_matrix.png"
        figures.confusion_matrix(path, sums.confusion, counts, names, groups, title)
    figures.reliability_diagram(run_dir / "reliability.png", sums.calibration, title)
    path, accuracy = run_dir / "per_class_accuracy.png", result["accuracy_per_class"]
    figures.per_class_accuracy(path, accuracy, counts, names, groups, title)
    rows = read_metrics(run_dir)
    figures.training_curves(run_dir / "training_curves.png", rows, title)


def main() -> None:
    """The command."""
    job = parse(sys.argv[1:])
    compute_right_sums()
    keep_compiled()
    hosts.start(job.coordinator, job.num_processes, job.process_id)
    run(job, Console(quiet=not hosts.is_first()))


if __name__ == "__main__":
    exit_with(main)
