"""Output of commands, which may be closed or lack characters."""

import codecs
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table

_PLAIN = {"±": "+-", "−": "-", "–": "-", "×": "x", "…": "..."}


def _plainer(error: UnicodeError) -> tuple[str, int]:
    """Returns a substitute for a character without encoding, and the next index."""
    assert isinstance(error, UnicodeEncodeError)
    letter = error.object[error.start]
    code = letter.encode("ascii", "backslashreplace").decode("ascii")
    return _PLAIN.get(letter, code), error.start + 1


codecs.register_error("plainer", _plainer)


class Output:
    """A text stream that drops what it cannot write, without an error.

    The reader of a pipe may be gone, the terminal closed, or the disk full. The results
    are in the files of a run.
    """

    def __init__(self, stream: TextIO | None):
        # There is none if a shell closed it by >&-.
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115

    def write(self, text: str) -> int:
        # It is closed, or a signal handler writes in the middle of a write.
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            self._stream.write(self._encodable(text))
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _encodable(self, text: str) -> str:
        encoding = self._stream.encoding or "utf-8"
        return text.encode(encoding, "plainer").decode(encoding)


def make_console(**options: Any) -> Console:
    """Returns a console on standard output, which may be closed."""
    output: Any = Output(sys.stdout)
    return Console(file=output, **options)


def show(part: Table | str, console: Console) -> None:
    """Prints a table, or a text as it is."""
    if isinstance(part, str):
        console.print(part, markup=False, highlight=False, soft_wrap=True)
    else:
        console.print(part)


def attempt(draw: Callable[[], None], console: Console) -> None:
    """Draws a figure; an error is only printed, so that the numbers are kept."""
    try:
        draw()
    except Exception as error:
        said = f"A figure could not be drawn ({type(error).__name__}: {error})."
        console.print(said, markup=False)


def complain(text: str) -> None:
    """Prints a line on standard error, if it is open."""
    output: Any = Output(sys.stderr)
    print(text, file=output, flush=True)


def let_go() -> None:
    """Prevents an error message at exit about a closed output."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
