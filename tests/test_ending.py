"""Tests of how commands end, and of unprintable output."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rich", reason="needs focal_sam_jax[experiments]")

from commands import PATIENCE, PYTHON

ROOT = Path(__file__).parents[1]
START = """
import errno, signal, sys, threading
from experiments.ending import exit_with
from experiments.errors import Stopped, UserError
from experiments.terminal import make_console
"""


def ended(program, stdout=subprocess.PIPE, **environment):
    """Exit status, output and errors of a program with a function ``main``."""
    process = subprocess.run(
        [sys.executable, "-c", f"{START}{program}\nexit_with(main)"],
        cwd=ROOT,
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
        env=os.environ | environment,
    )
    return process.returncode, process.stdout, process.stderr.decode()


@pytest.mark.parametrize(
    ("statement", "status", "words"),
    [
        ("return", 0, ""),
        ("raise UserError('no: do so.')", 2, "error: no: do so.\n"),
        ("raise Stopped('saved.', signal.SIGTERM)", 143, "stopped: saved.\n"),
        ("raise Stopped('saved.', signal.SIGHUP)", 129, "stopped: saved.\n"),
        ("raise KeyboardInterrupt", 130, "stopped\n"),
        (
            "raise PermissionError(errno.EACCES, 'Permission denied', '/x')",
            2,
            "error: [Errno 13] Permission denied: '/x': change its permissions, or "
            "name another place.\n",
        ),
        (
            "raise OSError(errno.ENOSPC, 'No space left on device', '/x')",
            2,
            "error: no space is left for /x: free some.\n",
        ),
        (
            "raise ValueError('Error writing: No space left on device')",
            2,
            "error: no space is left: free some.\n",
        ),
    ],
)
def test_status_and_last_line(statement, status, words):
    assert ended(f"def main(): {statement}") == (status, b"", words)


def test_a_command_says_at_once_that_it_begins_and_stops_while_it_imports(tmp_path):
    process = subprocess.Popen(
        [*PYTHON, "-m", "experiments.train", "--run-dir", tmp_path / "run"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr.readline() == "starting\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=PATIENCE) == ("", "stopped\n")
    assert process.returncode == 130


def test_anything_else_is_told_in_full():
    status, _, errors = ended("def main(): 1 / 0")
    assert status == 1 and "ZeroDivisionError" in errors
    status, _, errors = ended("def main(): raise RuntimeError('RESOURCE_EXHAUSTED')")
    assert status == 1 and "RESOURCE_EXHAUSTED" in errors


def test_a_full_disk_is_one_line_however_many_threads_find_it_so():
    program = """
def write(error):
    raise error

def main():
    full = ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device")
    threads = [threading.Thread(target=write, args=(full,)) for _ in range(5)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    raise RuntimeError("Event loop is closed")
"""
    assert ended(program) == (2, b"", "error: no space is left: free some.\n")
    other = program.replace("No space left on device", "no idea")
    status, _, errors = ended(other)
    assert status == 1 and errors.count("no idea") == 5


PRINTS = """
def main():
    console = make_console()
    for line in range(300):
        console.print("95.7 ± 1.5 – Größe 猫", line)
    open(sys.argv[-1], "w").write("done")
"""


@pytest.mark.parametrize("printer", ["console.print", "print"])
def test_who_stops_reading_costs_nothing_else(printer, tmp_path):
    reads, writes = os.pipe()
    done = tmp_path / "done"
    os.close(reads)
    program = PRINTS.replace("sys.argv[-1]", repr(str(done)))
    program = program.replace("console.print", printer).replace("300", "3000")
    with os.fdopen(writes, "w") as pipe:
        status, _, errors = ended(program, stdout=pipe)
    assert (status, errors, done.read_text()) == (0, "", "done")


@pytest.mark.parametrize(
    ("encoding", "wanted"),
    [
        ("utf-8", "95.7 ± 1.5 – Größe 猫 0"),
        ("latin-1", "95.7 ± 1.5 - Größe \\u732b 0"),
        ("ascii", "95.7 +- 1.5 - Gr\\xf6\\xdfe \\u732b 0"),
    ],
)
def test_letters_that_an_output_does_not_know_are_written_otherwise(encoding, wanted):
    program = PRINTS.replace("300", "1").replace("sys.argv[-1]", "'/dev/null'")
    status, output, errors = ended(program, PYTHONIOENCODING=encoding)
    assert (status, errors) == (0, "")
    assert output.decode(encoding) == wanted + "\n"
