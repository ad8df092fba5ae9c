"""From a state to the last epoch: train, look, record, save, and stop in good order."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from experiments import schedules
from experiments.checkpoint import Best, Checkpoints
from experiments.config import Config
from experiments.data.dataset import Dataset, Source, Split
from experiments.errors import Stopped, UserError
from experiments.evaluation import scores
from experiments.feeds import Feed
from experiments.step import EvalSums, TrainState, epoch_means
from experiments.stopping import StopSignal
from experiments.trainer import Trainer
from experiments.training_sharpness import sharpness_row


class Records(Protocol):
    """What takes the rows of metrics."""

    def append(self, row: dict[str, Any]) -> None: ...


class Run(NamedTuple):
    """All that a run needs while it lasts.

    Attributes:
      config: the run.
      dataset: its data.
      trainer: its compiled functions.
      feed: how the data come.
      key: its randomness.
      checkpoints: where states are saved.
      records: where metrics go.
      clock: tells the time in seconds.
      show: called with the step and what is new, after every few steps.
    """

    config: Config
    dataset: Dataset
    trainer: Trainer
    feed: Feed
    key: jax.Array
    checkpoints: Checkpoints
    records: Records
    clock: Callable[[], float]
    show: Callable[[int, dict[str, Any]], None]


def fit(run: Run, step: int, state: TrainState, best: Best) -> tuple[TrainState, Best]:
    """Trains on from a state that has made so many steps; returns the last and best.

    A row of metrics for an epoch is written before the state after it is saved, so
    that a run that is killed goes on without a gap and without a row twice.

    Raises:
      Stopped: after SIGTERM, when the state is on disk.
      UserError: if too many steps in a row had to be skipped.
    """
    steps_per_epoch = run.trainer.steps_per_epoch
    with StopSignal(run.checkpoints) as stop:
        while step < run.config.epochs * steps_per_epoch:
            began = run.clock()
            state, step = _rest_of_epoch(run, stop, step, state)
            seconds = run.clock() - began
            if step % steps_per_epoch == 0:
                best = _finish_epoch(run, step, state, best, seconds)
            if stop.after(step):
                run.checkpoints.save(step, state, best)
                run.checkpoints.wait()
                raise Stopped(f"saved after step {step}; go on with --resume.")
    return state, best


def judge(
    run: Run, state: TrainState, part: Split | Source
) -> tuple[dict[str, Any], EvalSums]:
    """Scores of a state on a part of the data, and the sums they come from."""
    sums = run.trainer.evaluate(state, run.feed.batches(part))
    sums = EvalSums(*map(np.asarray, sums))
    return scores(sums, run.dataset.class_counts, run.config), sums


def _rest_of_epoch(
    run: Run, stop: StopSignal, step: int, state: TrainState
) -> tuple[TrainState, int]:
    """Trains until the epoch ends, or until it is time to stop."""
    stalled = None
    for inputs, steps in run.feed.epoch(step):
        state = run.trainer.advance(state, inputs, run.key, steps)
        step += steps
        if stalled is not None:
            # Waits for the steps before these, so that the host is never far ahead.
            _check_progress(run, stalled)
        stalled = jnp.copy(state.skipped.stalled_at)
        run.show(step, {})
        if stop.after(step):
            break
    _check_progress(run, state.skipped.stalled_at)
    return state, step


def _finish_epoch(
    run: Run, step: int, state: TrainState, best: Best, seconds: float
) -> Best:
    """Writes down the epoch, looks at the validation part and saves, where due."""
    config = run.config
    epoch = step // run.trainer.steps_per_epoch
    row = {"epoch": epoch, "step": step}
    skipped = int(state.skipped.total)
    seen = {
        **epoch_means(jax.device_get(state.sums)),
        **schedules.at(config, run.trainer.steps_per_epoch, step - skipped - 1),
        "skipped": skipped,
        "seconds": seconds,
    }
    run.records.append({"split": "train", **row, **seen})
    run.show(step, seen)

    last = epoch == config.epochs
    validation = run.dataset.validation
    if validation is not None and (last or epoch % config.eval_every == 0):
        result, _ = judge(run, state, validation)
        run.records.append({"split": "validation", **row, **result})
        run.show(step, {"validation": result["accuracy"]})
        if result["accuracy"] > best.accuracy:
            best = Best(result["accuracy"], step)
    if config.sharpness_every and (last or epoch % config.sharpness_every == 0):
        sharp = sharpness_row(config, run.dataset, run.trainer, run.feed, state)
        run.records.append({"split": "sharpness", **row, **sharp})
    if last or epoch % config.checkpoint_every == 0 or best.step == step:
        run.checkpoints.save(step, state, best)
    return best


def _check_progress(run: Run, stalled_at: jax.Array) -> None:
    if int(stalled_at) >= 0:
        raise UserError(
            f"loss or gradient was not finite in {run.config.max_skipped} steps in a "
            f"row, the first of them step {int(stalled_at) + 1}: training diverged. "
            "Lower --learning-rate or --rho; the last checkpoint is a good one."
        )
