"""Trains one network on long-tailed data: ``python -m experiments.train --help``."""

import shlex
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro
from rich.console import Console
from rich.text import Text

from experiments import devices
from experiments.cli import (
    DataDir,
    Workers,
    arguments_of,
    prepare_jax,
)
from experiments.config import IN_MEMORY_SIZE, OWN_DATA, Config, Section
from experiments.configs.own_data import flags_of
from experiments.data.dataset import Dataset
from experiments.data.feed import Feed, make_feed
from experiments.data.load import load_dataset
from experiments.data.sources.files import counted, some_of
from experiments.ending import exit_with
from experiments.errors import UserError
from experiments.figures import run as figures
from experiments.figures.classes import per_class_accuracy
from experiments.models import has_head, make_model, open_pretrained
from experiments.progress import RunProgress, result_table
from experiments.randomness import random_key
from experiments.records.folders import (
    check_run_dir,
    locked,
    make_folder,
    new_run_dir,
)
from experiments.records.manifest import (
    MANIFEST,
    changed_options,
    check_same_data,
    create_run,
    describe_run,
    read_manifest,
    record_changes,
)
from experiments.records.rows import RowWriter, read_metrics
from experiments.sharpness.classes import check_sharpness, sharpness_row
from experiments.terminal import attempt, make_console
from experiments.training.checkpoint import Best, Checkpoints
from experiments.training.evaluate import EvalSums, shots
from experiments.training.loop import Run, evaluate, fit
from experiments.training.step import TrainState
from experiments.training.trainer import Trainer, make_trainer


@dataclass(frozen=True)
class Job:
    """Trains one network on long-tailed data and reports its last epoch.

    With a validation split, the epoch that is best on it is reported too. Exit status:
    0 done; 2 user error or full disk; 143, 130 and 129 saved and stopped by SIGTERM,
    Ctrl-C and SIGHUP; 1 any other error.
    """

    config: Config
    data_dir: DataDir = Path("data")
    run_dir: Annotated[
        Path | None,
        Section("records"),
        tyro.conf.arg(help="folder of this run; none: a new one in runs/"),
    ] = None
    resume: Annotated[
        bool,
        tyro.conf.arg(
            help="continue from the last checkpoint in --run-dir, or start a new run "
            "there"
        ),
    ] = False
    workers: Workers = 0
    devices: Annotated[
        int | None,
        Section("devices"),
        tyro.conf.arg(help="number of devices to train on; none: all"),
    ] = None
    split_state: Annotated[
        bool,
        tyro.conf.arg(help="split weights and optimizer state over the devices"),
    ] = False
    coordinator: Annotated[
        str | None,
        tyro.conf.arg(
            help="host:port of the first of several processes; found automatically on "
            "TPU pods and under SLURM"
        ),
    ] = None
    num_processes: Annotated[
        int | None, tyro.conf.arg(help="number of processes, with --coordinator")
    ] = None
    process_id: Annotated[
        int | None,
        tyro.conf.arg(help="number of this process, from 0, with --coordinator"),
    ] = None


def parse(arguments: list[str]) -> Job:
    """Returns the job that a command line describes."""
    return arguments_of(Job, "python -m experiments.train", arguments)


def run(job: Job, console: Console) -> Path:
    """Trains, evaluates and records; returns the folder of the run."""
    config = job.config
    _check_run_dir(job)
    check_sharpness(config)
    mesh = devices.device_mesh(job.devices)
    console.print(f"reading {config.data}", markup=False)
    tell = partial(console.print, markup=False) if devices.is_first() else None
    dataset = devices.together(lambda: load_dataset(config, job.data_dir, tell=tell))
    key = random_key(config.seed, mesh)
    device_loop = config.in_memory and devices.loops_are_fast()
    feed = make_feed(
        config, dataset, mesh, key, workers=job.workers, device_loop=device_loop
    )
    trainer = make_trainer(
        config,
        dataset,
        mesh,
        feed.steps_per_epoch,
        device_loop=device_loop,
        split_state=job.split_state,
    )
    # This comes first: if the initial weights are missing, no run folder is made.
    state = None if job.resume else trainer.init(jax.random.key(config.seed))
    with ExitStack() as at_the_end:
        at_the_end.callback(feed.close)
        run_dir, changed = devices.together(
            lambda: _open_run(job, dataset, trainer, at_the_end)
        )
        checkpoints = Checkpoints(run_dir, config, trainer.shapes)
        at_the_end.callback(checkpoints.close)
        latest = checkpoints.latest()
        # A run that was killed before its first checkpoint starts from step 0.
        if latest is not None:
            step, state, best = checkpoints.restore(latest)
            _check_length(config, step, feed.steps_per_epoch)
        else:
            step, best = 0, Best()
            state = state or trainer.init(jax.random.key(config.seed))
        rows = devices.together(lambda: _open_rows(run_dir, config, step, changed))
        at_the_end.callback(rows.close)

        def measure(state):
            return sharpness_row(
                config,
                dataset,
                state.evaluated,
                trainer.frozen,
                lambda: feed.whole(dataset.train),
            )

        steps = config.epochs * feed.steps_per_epoch
        place = f"on {devices.described(mesh)}, into {run_dir}"
        notes = _notes(config, dataset, feed.batch_size, begins=latest is None)
        notes += [
            f"{name}: {then} until step {step}, {now} from now on."
            for name, (then, now) in changed.items()
        ]
        _announce(console, config, dataset, feed, place, notes)
        with RunProgress(console, config.epochs, steps, feed.batch_size) as progress:
            whole = Run(
                config,
                dataset,
                trainer,
                feed,
                key,
                checkpoints,
                rows,
                time.perf_counter,
                progress.show,
                lambda text: console.print(text, markup=False),
                _to_resume(job, run_dir),
                measure,
            )
            state, best = fit(whole, step, state, best)
        if skipped := int(state.skipped.total):
            said = (
                f"{skipped} of {steps} steps were skipped: loss or gradient was not "
                "finite."
            )
            console.print(said, style="yellow")
        result = _report(whole, state, best, run_dir, console)
    console.print(result_table(result, dataset.class_counts, config))
    place = shlex.quote(str(run_dir))
    own = config.data.startswith(OWN_DATA)
    command = f"predict {place} FILE_OR_FOLDER ..." if own else f"analyze {place}"
    console.print(
        f"Everything is in {run_dir}.\n"
        f"{'Classify images' if own else 'Measure sharpness'}: "
        f"python -m experiments.{command}",
        markup=False,
        soft_wrap=True,
    )
    return run_dir


def _announce(
    console: Console,
    config: Config,
    dataset: Dataset,
    feed: Feed,
    place: str,
    notes: list[str],
) -> None:
    """Prints what will be trained, on which data and devices, and the notes."""
    what = (
        f": {len(dataset.train.labels)} images in {len(dataset.class_counts)} classes, "
        f"{len(dataset.test.labels)} to test on, "
        f"{counted(config.epochs, 'epoch')} of "
        f"{counted(feed.steps_per_epoch, 'step')}, {place}"
    )
    title = (f"{config.config}, {config.method}", "bold")
    console.print(Text.assemble(title, what), soft_wrap=True)
    for note in notes:
        console.print(note, style="yellow", markup=False, soft_wrap=True)


def _notes(
    config: Config, dataset: Dataset, batch_size: int, *, begins: bool
) -> list[str]:
    """Returns what the user should know before the run starts or resumes."""
    notes = list(dataset.notes)
    if batch_size < config.batch_size:
        notes += [
            f"A step has {counted(batch_size, 'image')}, not {config.batch_size}: the "
            "training set has no more."
        ]
    if config.init_weights is not None and begins:
        model = make_model(config, len(dataset.class_counts), channels=3)
        whole = has_head(open_pretrained(config.init_weights), model)
        but = "" if whole else ", except the last layer, which does not fit"
        notes += [f"Starts from {config.init_weights}{but}."]
    if config.data.startswith(OWN_DATA):
        counts = dataset.class_counts
        tested = np.bincount(dataset.test.labels, minlength=len(counts))
        notes += [
            f"Classes, in this order: {some_of(dataset.class_names)}. They have "
            f"{counts.max()} to {counts.min()} training images and {tested.max()} to "
            f"{tested.min()} test images. Settings of {config.config}, adapted to the "
            f"data: {flags_of(config)}."
        ]
        if config.network_size > IN_MEMORY_SIZE and not devices.loops_are_fast():
            notes += [
                "Training on images this large is slow on a CPU. For a first look: "
                "--image-size 32 --epochs 20."
            ]
    return notes


def _check_run_dir(job: Job) -> None:
    if job.run_dir is None and job.resume:
        raise UserError("--resume needs --run-dir, the folder of the run to continue.")
    if job.run_dir is None and jax.process_count() > 1:
        raise UserError(
            "several processes need --run-dir, a folder that all of them can access."
        )
    check_run_dir(job.run_dir or Path())


def _to_resume(job: Job, run_dir: Path) -> str:
    """Returns the command that continues this run."""
    more = [] if job.resume else ["--resume"]
    more += ["--run-dir", str(run_dir)] if job.run_dir is None else []
    return shlex.join(["python", "-m", "experiments.train", *sys.argv[1:], *more])


def _open_run(
    job: Job,
    dataset: Dataset,
    trainer: Trainer,
    at_the_end: ExitStack,
) -> tuple[Path, dict[str, list[Any]]]:
    """Creates the folder and records of a new run, or checks those of one to resume.

    The folder is locked against other processes until ``at_the_end`` closes.

    Returns:
      The folder, and the options that changed since the run began, each with old and
      new value.
    """
    config = job.config
    if job.run_dir is not None and not devices.is_first():
        return job.run_dir, {}
    name = f"{config.config}-{config.method}-seed{config.seed}"
    run_dir = job.run_dir or new_run_dir(name)
    make_folder(run_dir, "--run-dir")
    at_the_end.enter_context(locked(run_dir))
    if job.resume and (run_dir / MANIFEST).exists():
        manifest = read_manifest(run_dir)
        # Checked before the options, because some options may depend on the data.
        check_same_data(manifest, dataset)
        return run_dir, changed_options(manifest["config"], config)
    networks = trainer.shapes.params, trainer.frozen
    create_run(run_dir, describe_run(config, dataset, *networks, sys.argv))
    return run_dir, {}


def _open_rows(
    run_dir: Path, config: Config, step: int, changed: dict[str, list[Any]]
) -> RowWriter:
    """Records the changed options; opens the metrics, without rows after ``step``."""
    if changed and devices.is_first():
        record_changes(run_dir, config, step, changed)
    return RowWriter(run_dir, keep_until_step=step, writes=devices.is_first())


def _check_length(config: Config, step: int, steps_per_epoch: int) -> None:
    done = -(-step // steps_per_epoch)
    if config.epochs < done:
        raise UserError(
            f"--epochs {config.epochs} is less than the {counted(done, 'epoch')} that "
            "the run has made: pass as many or more."
        )


def _report(
    run: Run, state: TrainState, best: Best, run_dir: Path, console: Console
) -> dict[str, dict[str, Any]]:
    """Evaluates the last state and the best validation state on the test split."""
    config, dataset = run.config, run.dataset
    to_judge = {"last": config.epochs * run.trainer.steps_per_epoch}
    if best.step:
        to_judge["best on validation"] = best.step
    results = {}
    for which, step in to_judge.items():
        if which == "last":
            of_step = state
        else:
            run.checkpoints.wait()
            try:
                of_step = run.checkpoints.restore(step)[1]
            except UserError as error:
                console.print(f"No result for the best epoch: {error}", markup=False)
                continue
        result, sums = evaluate(run, of_step, dataset.test)
        epoch = step // run.trainer.steps_per_epoch
        results[which] = {"epoch": epoch, **result}
        row = {"split": "test", "which": which.split()[0], "epoch": epoch, "step": step}
        run.rows.append({**row, **result})
        if which == "last" and devices.is_first():
            np.savez_compressed(run_dir / "confusion.npz", confusion=sums.confusion)
            attempt(partial(_draw, run_dir, config, dataset, result, sums), console)
    return results


def _draw(
    run_dir: Path,
    config: Config,
    dataset: Dataset,
    result: dict[str, Any],
    sums: EvalSums,
) -> None:
    """Draws the figures of a run."""
    kind, _, name = config.data.partition(":")
    data = Path(name).name if f"{kind}:" in OWN_DATA else config.config
    title = f"{data}, {config.method}, seed {config.seed}"
    counts, names = dataset.class_counts, dataset.class_names
    groups = shots(counts, config)
    if len(counts) <= figures.LARGEST_MATRIX:
        path = run_dir / "confusion_matrix.png"
        figures.confusion_matrix(path, sums.confusion, counts, names, groups, title)
    figures.reliability_diagram(run_dir / "reliability.png", sums.calibration, title)
    path = run_dir / "per_class_accuracy.png"
    accuracy = {config.method: np.array(result["accuracy_per_class"], dtype=float)}
    per_class_accuracy(path, accuracy, {}, counts, names, groups, title)
    rows = read_metrics(run_dir)
    figures.training_curves(run_dir / "training_curves.png", rows, title)


def main() -> None:
    """Runs the command."""
    job = parse(sys.argv[1:])
    prepare_jax()
    devices.join_processes(job.coordinator, job.num_processes, job.process_id)
    run(job, make_console(quiet=not devices.is_first()))


if __name__ == "__main__":
    exit_with(main)
