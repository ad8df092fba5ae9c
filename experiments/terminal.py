"""Where commands write: an output that may be closed, or know few letters."""

import contextlib
import os
import sys
from typing import Any, TextIO

from rich.console import Console

_PLAIN = str.maketrans(
    {"±": "+-", "−": "-", "–": "-", "×": "x", "…": "...", "θ": "theta"}
)


class _Output:
    """A text stream where what cannot be written is lost, and costs nothing else.

    The reader of a pipe may have gone, the terminal closed, the disk be full: what
    counts is in the files of a run.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):  # the latter once it is closed
            self._stream.write(self._encodable(text))
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _encodable(self, text: str) -> str:
        encoding = self._stream.encoding or "utf-8"
        try:
            text.encode(encoding)
        except UnicodeEncodeError:
            plain = text.translate(_PLAIN)
            return plain.encode(encoding, "backslashreplace").decode(encoding)
        return text


def make_console(**options: Any) -> Console:
    """A console on standard output, for as long as there is one."""
    output: Any = _Output(sys.stdout)
    return Console(file=output, **options)


def complain(text: str) -> None:
    """A line on standard error, where there is one."""
    output: Any = _Output(sys.stderr)
    print(text, file=output, flush=True)


def let_go() -> None:
    """Keeps Python from complaining at its end of an output that is closed."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
