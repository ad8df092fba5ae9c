"""From a state to the last epoch: train, look, record, save, and stop in good order."""

import signal
import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Config
from experiments.data.dataset import Dataset, Source, Split
from experiments.data.feed import Feed
from experiments.errors import Stopped, UserError
from experiments.training import schedules
from experiments.training.checkpoint import Best, Checkpoints
from experiments.training.evaluate import EvalSums, scores
from experiments.training.step import TrainState, epoch_means
from experiments.training.trainer import Trainer

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Rows(Protocol):
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
      rows: where metrics go.
      clock: tells the time in seconds.
      show: called with the step and what is new, after every few steps.
      say: tells the user something at once.
      go_on: the options by which a run that was stopped goes on.
      measure: how sharp a state is, as JSON; where the configuration asks for it.
    """

    config: Config
    dataset: Dataset
    trainer: Trainer
    feed: Feed
    key: jax.Array
    checkpoints: Checkpoints
    rows: Rows
    clock: Callable[[], float]
    show: Callable[[int, dict[str, Any]], None]
    say: Callable[[str], None]
    go_on: str
    measure: Callable[[TrainState], dict[str, Any]]


class StopSignal:
    """Whether to save and stop after the step at hand, as all hosts agree.

    One process alone catches signals itself: SIGTERM, Ctrl-C, and SIGHUP of a terminal
    that closes. Several are told by JAX, which catches SIGTERM on any of them and names
    a step at which all stop.
    """

    def __init__(self, checkpoints: Checkpoints, say: Callable[[str], None]):
        """
        Args:
          checkpoints: of the run, which know what the hosts agreed on.
          say: tells the user, from within a signal handler.
        """
        self._checkpoints, self._say = checkpoints, say
        self._received = 0
        self._before = {}

    def __enter__(self) -> "StopSignal":
        # Only the main thread may catch signals; in another one nothing is caught.
        if not _told_by_jax() and threading.current_thread() is threading.main_thread():
            for number in _STOPS:
                # nohup has SIGHUP ignored, shells Ctrl-C for what runs behind them.
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def after(self, step: int) -> int:
        """The number of the signal to stop by after so many steps; 0 to go on."""
        if not self._received and _told_by_jax():
            if self._checkpoints.reached_preemption(step):
                self._received = signal.SIGTERM
        return self._received

    def _receive(self, number, _):
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
        if number == signal.SIGINT:
            self._say("Saving after this step; Ctrl-C again ends at once.")


def fit(run: Run, step: int, state: TrainState, best: Best) -> tuple[TrainState, Best]:
    """Trains on from a state that has made so many steps; returns the last and best.

    A row of metrics for an epoch is written before the state after it is saved, so
    that a run that is killed goes on without a gap and without a row twice.

    Raises:
      Stopped: after SIGTERM, Ctrl-C or SIGHUP, when the state is on disk.
      UserError: if too many steps in a row had to be skipped.
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
                    f"saved after step {step}; go on with {run.go_on}.",
                    signal_number,
                )
    return state, best


def evaluate(
    run: Run, state: TrainState, split: Split | Source
) -> tuple[dict[str, Any], EvalSums]:
    """Scores of a state on a split of the data, and the sums they come from."""
    sums = run.trainer.evaluate(state, run.feed.whole(split))
    sums = EvalSums(*map(np.asarray, sums))
    return scores(sums, run.dataset.class_counts, run.config), sums


def epoch_numbers(
    config: Config, steps_per_epoch: int, state: TrainState, seconds: float
) -> dict[str, Any]:
    """What the row of an epoch says: of the state after it, and the time it took."""
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
    """Writes down the epoch, looks at the validation split and saves, where due."""
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
    lower = "Lower --learning-rate or --rho"
    saved = run.checkpoints.latest()
    if saved is None:
        return f"{lower}, and begin in another --run-dir."
    return f"{lower}, and go on from step {saved} with --resume."


def _told_by_jax() -> bool:
    return jax.distributed.is_initialized()
