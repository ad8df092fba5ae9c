"""Folders and files that commands write into, made before the work begins."""

import os
from pathlib import Path

from experiments.errors import UserError


def make_folder(folder: Path, option: str) -> None:
    """Creates the folder if it does not exist.

    Args:
      folder: the folder.
      option: option of the command that names it, for the message.

    Raises:
      UserError: if it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make the folder {folder} for {option}: {error.strerror}."
        ) from error


def free_run_dir(base: Path, name: str) -> Path:
    """Returns ``base/name``, or the first free one of ``base/name-2``, ``-3``, …."""
    candidate, number = base / name, 2
    while candidate.exists():
        candidate, number = base / f"{name}-{number}", number + 1
    return candidate


def report_dir(wanted: Path | None, name: str) -> Path:
    """Creates an empty folder for a report on finished runs.

    Args:
      wanted: the user's ``--out``; ``None`` for a new folder in ``runs/``.
      name: name of the new folder.

    Raises:
      UserError: if the folder is not empty, or cannot be created.
    """
    out = wanted or free_run_dir(Path("runs"), name)
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
        raise UserError(f"--out {path} already exists: name another file.")
    make_folder(path.parent, "--out")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"--out {path} cannot be written: {path.parent} is read-only.")
