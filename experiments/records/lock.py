"""One process at a time in the folder of a run."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.errors import UserError


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Has the folder to itself, until it is left or the process ends, in whatever way.

    On a file system that machines share it may be locked for one machine alone, or not
    at all.

    Raises:
      UserError: if another process has it.
    """
    try:
        import fcntl
    except ImportError:  # on Windows
        yield
        return
    # A lock on the folder itself leaves no file behind.
    folder = os.open(run_dir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is training in {run_dir}: wait until it ends, or "
                "stop it."
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(folder)
