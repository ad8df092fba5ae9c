"""Lock on the folder of a run."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.errors import UserError


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Locks the folder until the ``with`` block or the process ends.

    On a shared file system, the lock may hold for this machine only, or not at all.

    Raises:
      UserError: if another process holds the lock.
    """
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
