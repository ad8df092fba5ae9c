"""The training loop: trains, validates, records and saves, and stops on signals."""

import signal
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Config
from experiments.data.dataset import Dataset, Source, Split
from experiments.data.feed import Feed
from experiments.errors import Stopped, UserError
from experiments.records.rows import RowWriter
from experiments.training import schedules
from experiments.training.checkpoint import Best, Checkpoints
from experiments.training.evaluate import EvalSums, scores
from experiments.training.step import TrainState, epoch_means
from experiments.training.trainer import Trainer

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Run(NamedTuple):
    """The objects that a run needs.

    Attributes:
      config: its configuration.
      dataset: its data.
      trainer: its compiled functions.
      feed: source of its batches.
      key: its random key.
      checkpoints: its checkpoints.
      rows: writer of its metrics.
      clock: returns the time in seconds.
      show: called with the step and new metrics, after every few steps.
      say: shows the user a message at once.
      go_on: command that resumes a stopped run.
      measure: returns the sharpness of a state, as JSON; used if the configuration asks
        for it.
    """

    config: Config
    dataset: Dataset
    trainer: Trainer
    feed: Feed
    key: jax.Array
    checkpoints: Checkpoints
    rows: RowWriter
    clock: Callable[[], float]
    show: Callable[[int, dict[str, Any]], None]
    say: Callable[[str], None]
    go_on: str
    measure: Callable[[TrainState], dict[str, Any]]


class StopSignal:
    """A request to save and stop after the current step, on which all hosts agree.

    A single process itself catches SIGTERM, Ctrl-C, and SIGHUP of a closed terminal.
    With several, JAX catches SIGTERM on any of them and chooses a step at which all
    stop.
    """

    def __init__(self, checkpoints: Checkpoints, say: Callable[[str], None]):
        """
        Args:
          checkpoints: checkpoints of the run, which know the agreed step.
          say: shows the user a message from a signal handler.
        """
        self._checkpoints, self._say = checkpoints, say
        self._received = 0
        self._before = {}

    def __enter__(self) -> "StopSignal":
        # Only the main thread may catch signals; in another one nothing is caught.
        if not _told_by_jax() and threading.current_thread() is threading.main_thread():
            for number in _STOPS:
                # nohup ignores SIGHUP; shells ignore Ctrl-C for background jobs.
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def after(self, step: int) -> int:
        """Returns the number of the signal that asks to stop after this step, or 0."""
        if not self._received and _told_by_jax():
            if self._checkpoints.reached_preemption(step):
                self._received = signal.SIGTERM
        return self._received

    def _receive(self, number, _):
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
        if number == signal.SIGINT:
            self._say("Saving after this step; press Ctrl-C again to stop at once.")


def fit(run: Run, step: int, state: TrainState, best: Best) -> tuple[TrainState, Best]:
    """Trains a state that has made ``step`` steps; returns the last state and the best.

    The metrics of an epoch are written before its state is saved, so that a killed run
    resumes without missing or repeated rows.

    Raises:
      Stopped: after SIGTERM, Ctrl-C or SIGHUP, when the state is on disk.
      UserError: if too many steps in a row, or all steps, were skipped.
    """
    steps_per_epoch = run.trainer.steps_per_epoch
    with StopSignal(run.checkpoints, run.say) as stop:
        while step < run.config.epochs * steps_per_epoch:
            began = run.clock()
            state, step = _rest_of_epoch(run, stop, step, state)
            seconds = run.clock() - began
            if step % steps_per_epoch == 0:
                best = _finish_epoch(run, step, state, best, seconds)
            if signal_number := stop.after(step):
                run.checkpoints.save(step, state, best)
                run.checkpoints.wait()
                raise Stopped(
                    f"saved after step {step}; continue with:\n{run.go_on}",
                    signal_number,
                )
    return state, best


def evaluate(
    run: Run, state: TrainState, split: Split | Source
) -> tuple[dict[str, Any], EvalSums]:
    """Returns scores of a state on a split, and the sums behind them."""
    sums = run.trainer.evaluate(state, run.feed.whole(split))
    sums = EvalSums(*map(np.asarray, sums))
    return scores(sums, run.dataset.class_counts, run.config), sums


def epoch_numbers(
    config: Config, steps_per_epoch: int, state: TrainState, seconds: float
) -> dict[str, Any]:
    """Returns an epoch's metrics, from the state after it and its duration."""
    step, skipped = int(state.step), int(state.skipped.total)
    return {
        **epoch_means(jax.device_get(state.sums)),
        **schedules.at(config, steps_per_epoch, step - skipped - 1),
        "skipped": skipped,
        "seconds": seconds,
    }


def _rest_of_epoch(
    run: Run, stop: StopSignal, step: int, state: TrainState
) -> tuple[TrainState, int]:
    """Trains until the epoch ends, or until a stop is requested."""
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
    """Records the epoch; validates, measures sharpness and saves when due."""
    config = run.config
    epoch = step // run.trainer.steps_per_epoch
    row = {"epoch": epoch, "step": step}
    if int(state.skipped.total) == step and epoch == config.epochs:
        raise UserError(
            f"loss or gradient was not finite in any of the {step} steps, so nothing "
            f"was learned. {_advice(run)}"
        )
    seen = epoch_numbers(config, run.trainer.steps_per_epoch, state, seconds)
    run.rows.append({"split": "train", **row, **seen})
    run.show(step, seen)

    last = epoch == config.epochs
    validation = run.dataset.validation
    if validation is not None and (last or epoch % config.eval_every == 0):
        result, _ = evaluate(run, state, validation)
        run.rows.append({"split": "validation", **row, **result})
        run.show(step, {"validation": result["accuracy"]})
        if result["accuracy"] > best.accuracy:
            best = Best(result["accuracy"], step)
    if config.sharpness_every and (last or epoch % config.sharpness_every == 0):
        run.rows.append({"split": "sharpness", **row, **run.measure(state)})
    if last or epoch % config.checkpoint_every == 0 or best.step == step:
        run.checkpoints.save(step, state, best)
    return best


def _check_progress(run: Run, stalled_at: jax.Array) -> None:
    if int(stalled_at) >= 0:
        raise UserError(
            f"loss or gradient was not finite in {run.config.max_skipped} steps in a "
            f"row, the first of them step {int(stalled_at) + 1}: training diverged. "
            f"{_advice(run)}"
        )


def _advice(run: Run) -> str:
    radius = "" if run.config.method == "sgd" else " or --rho"
    lower = f"Lower --learning-rate{radius}"
    saved = run.checkpoints.latest()
    if saved is None:
        return f"{lower}, and start in another --run-dir."
    return f"{lower}, and continue from step {saved} with --resume."


def _told_by_jax() -> bool:
    return jax.distributed.is_initialized()
