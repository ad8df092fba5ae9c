"""Ending in good order when the machine is taken away: SIGTERM."""

import signal
import threading

import jax

from experiments.checkpoint import Checkpoints


class StopSignal:
    """Whether to save and stop after the step at hand, as all hosts agree.

    One process alone catches SIGTERM itself. Several are told by JAX, which catches it
    on any of them and names a step at which all stop.
    """

    def __init__(self, checkpoints: Checkpoints):
        self._checkpoints = checkpoints
        self._received = False
        self._before = None

    def __enter__(self) -> "StopSignal":
        # Only the main thread may catch signals; in another one nothing is caught.
        if not _told_by_jax() and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._receive)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def after(self, step: int) -> bool:
        """Whether to stop after this many steps."""
        if not self._received and _told_by_jax():
            self._received = self._checkpoints.reached_preemption(step)
        return self._received

    def _receive(self, *_):
        self._received = True


def _told_by_jax() -> bool:
    return jax.distributed.is_initialized()
