"""Errors that end a command early, with a message for the user."""

from importlib import import_module
from types import ModuleType


class UserError(Exception):
    """A user error; one sentence says what was given, what is needed and what to do."""


class Stopped(Exception):
    """A signal stopped the run early; the message says how to resume it."""

    def __init__(self, message: str, signal: int):
        """
        Args:
          message: text for the user.
          signal: number of the signal.
        """
        super().__init__(message)
        self.signal = signal


def import_package(name: str, purpose: str, extra: str) -> ModuleType:
    """Imports a package that not every command needs.

    Args:
      name: the package.
      purpose: what needs it, as the subject of a sentence.
      extra: the extra in pyproject.toml that installs it.

    Raises:
      UserError: if it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"{purpose} needs the package {name}: "
            f"pip install -e '.[experiments,{extra}]'."
        ) from error
