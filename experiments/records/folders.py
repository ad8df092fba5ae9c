"""Folders and files that commands write into, made before the work begins."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.errors import UserError


def make_folder(folder: Path, option: str) -> None:
    """Creates the folder if it does not exist.

    Args:
      folder: the folder.
      option: option of the command that names it, for the message.

    Raises:
      UserError: if it cannot be created, or nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {folder} for {option}: {error.strerror}."
        ) from error
    if not os.access(folder, os.W_OK):
        raise UserError(f"cannot write in the folder {folder} for {option}.")


def new_run_dir(name: str, option: str = "--run-dir") -> Path:
    """Creates ``runs/name``, or the first free one of ``runs/name-2``, ``-3``, ….

    Args:
      name: name of the new folder.
      option: option with which the user can name another, for the message.

    Raises:
      UserError: if nothing can be written in ``runs``.
    """
    base, number = Path("runs"), 1
    make_folder(base, option)
    while True:
        folder = base / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
            return folder
        except FileExistsError:  # also if another process was faster
            number += 1


def check_run_dir(run_dir: Path) -> None:
    """Raises a ``UserError`` if no checkpoint can be written below a path.

    Orbax reads some characters as a pattern, and TensorStore a backslash as a slash.
    """
    found = sorted(set(str(run_dir.absolute())) & set("[]*?\\"))
    if found:
        raise UserError(
            f"no checkpoint can be written below {run_dir.absolute()}, which has "
            f"{' and '.join(found)} in it: pass another --run-dir."
        )


def report_dir(wanted: Path | None, name: str) -> Path:
    """Creates an empty folder for a report on finished runs.

    Args:
      wanted: the user's ``--out``; ``None`` for a new folder in ``runs/``.
      name: name of the new folder.

    Raises:
      UserError: if the folder is not empty, or cannot be created.
    """
    out = wanted or new_run_dir(name, "--out")
    make_folder(out, "--out")
    if any(out.iterdir()):
        raise UserError(
            f"{out} is not empty, and nothing is overwritten: pass another --out."
        )
    return out


def check_new_file(path: Path) -> None:
    """Checks that ``--out`` can become a new file; its folder is created.

    Raises:
      UserError: if it exists, or nothing can be written there.
    """
    if path.exists():
        raise UserError(f"{path} already exists: name another file with --out.")
    make_folder(path.parent, "--out")


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
                f"another process is using {run_dir}: wait until it ends, or stop it."
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(folder)
