"""How commands end: their exit status, and one last line."""

import errno
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable

from experiments.errors import Stopped, UserError
from experiments.terminal import complain, let_go

_NO_SPACE = "No space left on device"
_LOOP = "Event loop is closed"


def begin() -> None:
    """Says that a command has begun, and ends at Ctrl-C until :func:`exit_with`.

    Its imports take seconds. Where this package is imported by others it does nothing.
    """
    if sys.argv[0] != "-m":  # as Python calls a module that it is about to run
        return

    def stop(*_) -> None:
        complain("stopped")
        os._exit(130)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)
    complain("starting")


def exit_with(main: Callable[[], None]) -> None:
    """Runs a command: status 0 done, 2 the user's mistake, 1 anything else.

    A run that a signal stopped ends with 128 and the signal's number, as a process that
    does not catch it: 143 after SIGTERM, 130 after Ctrl-C, 129 after SIGHUP.
    """
    threads = _Threads()
    if callable(signal.getsignal(signal.SIGINT)):  # not ignored, as nohup has it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        main()
    except UserError as error:
        complain(f"error: {error}")
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
            f"error: no space is left{f' for {where}' if where else ''}: make some."
        )
        # What threads have to say of it, now and when Python ends, would bury that.
        os._exit(2)
    else:
        if threads.without_space:
            complain("No space was left for a part of what was to be written.")
    finally:
        let_go()


class _Threads(logging.Filter):
    """Keeps threads from telling each on its own that no space is left.

    Attributes:
      without_space: whether one of them found none.
    """

    def __init__(self):
        super().__init__()
        self.without_space = False
        for_threads, usual = threading.excepthook, sys.unraisablehook
        threading.excepthook = lambda told: self._saw(told[1]) or for_threads(told)
        # Of threads of TensorStore too, which do not know that a save has failed and
        # its loop is closed.
        sys.unraisablehook = lambda told: self._saw(told[1]) or usual(told)
        for name in ("absl", "asyncio"):  # what Orbax and its loops log by
            logging.getLogger(name).addFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not self._saw(error or Exception(record.getMessage()))

    def _saw(self, error: BaseException | None) -> bool:
        without = _without_space(error)
        self.without_space |= without
        return without or _LOOP in str(error)


def _without_space(error: BaseException | None) -> bool:
    """Whether this came of a disk that is full, perhaps at some removes."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if _NO_SPACE in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
