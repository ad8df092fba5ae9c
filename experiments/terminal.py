"""Where commands write: an output that may be closed, or know few letters."""

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
    """Other letters for one that an encoding lacks, and where to go on."""
    assert isinstance(error, UnicodeEncodeError)
    letter = error.object[error.start]
    code = letter.encode("ascii", "backslashreplace").decode("ascii")
    return _PLAIN.get(letter, code), error.start + 1


codecs.register_error("plainer", _plainer)


class _Output:
    """A text stream where what cannot be written is lost, and costs nothing else.

    The reader of a pipe may have gone, the terminal closed, the disk be full: what
    counts is in the files of a run.
    """

    def __init__(self, stream: TextIO | None):
        # There is none where a shell closed it, by >&-.
        self._stream = stream or open(os.devnull, "w")  # noqa: SIM115

    def write(self, text: str) -> int:
        # Closed, or interrupted in the middle by a signal of which it is to tell.
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
    """A console on standard output, for as long as there is one."""
    output: Any = _Output(sys.stdout)
    return Console(file=output, **options)


def show(part: Table | str, console: Console) -> None:
    """A table, or a text as it is."""
    if isinstance(part, str):
        console.print(part, markup=False, highlight=False, soft_wrap=True)
    else:
        console.print(part)


def attempt(draw: Callable[[], None], console: Console) -> None:
    """Draws a figure; if it fails, the numbers are there, whatever that is."""
    try:
        draw()
    except Exception as error:
        said = f"A figure could not be drawn ({type(error).__name__}: {error})."
        console.print(said, markup=False)


def complain(text: str) -> None:
    """A line on standard error, where there is one."""
    output: Any = _Output(sys.stderr)
    print(text, file=output, flush=True)


def let_go() -> None:
    """Keeps Python from complaining at its end of an output that is closed."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
