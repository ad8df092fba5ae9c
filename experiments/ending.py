"""The end of commands: exit status and last line."""

import contextlib
import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from experiments.errors import Stopped, UserError
from experiments.terminal import Output, complain, let_go

_NO_SPACE = "No space left on device"
_LOOP = "Event loop is closed"


def begin() -> None:
    """Prints that a command starts; Ctrl-C ends it at once until :func:`exit_with`.

    Its imports take seconds. If other code imports this package, nothing is done.
    """
    if sys.argv[0] != "-m":  # set by Python while it locates the module to run
        return

    def stop(*_) -> None:
        complain("stopped")
        os._exit(130)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)
    complain("starting")


def exit_with(main: Callable[[], None]) -> None:
    """Runs a command: status 0 done, 2 user error or full disk, 1 any other error.

    A run stopped by a signal ends with 128 plus the signal's number, like a process
    that does not catch it: 143 after SIGTERM, 130 after Ctrl-C, 129 after SIGHUP.
    """
    threads = _Threads()
    output: Any = Output(sys.stdout)
    if callable(signal.getsignal(signal.SIGINT)):  # the signal is not ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with contextlib.redirect_stdout(output):
            main()
    except UserError as error:
        complain(f"error: {error}")
        sys.exit(2)
    except PermissionError as error:
        complain(f"error: {error}: change its permissions, or name another place.")
        sys.exit(2)
    except Stopped as stopped:
        complain(f"stopped: {stopped}")
        sys.exit(128 + stopped.signal)
    except KeyboardInterrupt:
        complain("stopped")
        sys.exit(130)
    except Exception as error:
        failed_save = threads.without_space and _LOOP in str(error)
        if not (failed_save or _without_space(error)):
            raise
        where = getattr(error, "filename", None)
        complain(
            f"error: no space is left{f' for {where}' if where else ''}: free some."
        )
        # Exit at once, because error messages of threads would hide this line.
        os._exit(2)
    else:
        if threads.without_space:
            complain("Some output was not written, because no space was left.")
    finally:
        let_go()


class _Threads(logging.Filter):
    """Filter and hooks that suppress the messages of threads about a full disk.

    Attributes:
      without_space: whether a thread found the disk full.
    """

    def __init__(self):
        super().__init__()
        self.without_space = False
        for_threads, usual = threading.excepthook, sys.unraisablehook
        threading.excepthook = lambda told: self._saw(told[1]) or for_threads(told)
        # Also for threads of TensorStore, which do not know that a save has failed and
        # its event loop is closed.
        sys.unraisablehook = lambda told: self._saw(told[1]) or usual(told)
        for name in ("absl", "asyncio"):  # the loggers of Orbax and its loops
            logging.getLogger(name).addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not self._saw(error or Exception(record.getMessage()))

    def _saw(self, error: BaseException | None) -> bool:
        without = _without_space(error)
        self.without_space |= without
        return without or _LOOP in str(error)


def _without_space(error: BaseException | None) -> bool:
    """Returns whether a full disk caused this error, directly or indirectly."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if _NO_SPACE in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
