"""Helpers that run the experiments' commands in separate processes."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Timeout of a process in seconds. It is many times the usual duration, so that a slow
# or busy machine does not make a test fail.
PATIENCE = 1200
# Python that handles SIGINT, even if the tests run in the background and ignore it.
_HEAR = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL)"
PYTHON = [sys.executable, "-c", f"{_HEAR}; os.execv(sys.executable, sys.argv[1:])"]
PYTHON += [sys.executable]


def python(program, *arguments, without=(), **environment):
    """Runs a program in a new interpreter, ``without`` these environment variables."""
    inherited = {k: v for k, v in os.environ.items() if k not in without}
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def start(module, *arguments, **environment):
    """Starts ``python -m experiments.MODULE`` on one CPU device."""
    inherited = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    own = {
        "JAX_PLATFORMS": "cpu",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "COLUMNS": "120",
    }
    return subprocess.Popen(
        [*PYTHON, "-m", f"experiments.{module}", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=inherited | own | environment,
    )


def finish(process, timeout=PATIENCE):
    """Returns the exit status, and stdout followed by stderr."""
    output, errors = process.communicate(timeout=timeout)
    return process.returncode, output + errors


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start_two(run_dir, *options):
    """Starts two processes of one device that train together."""
    joining = ["--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", 2]
    options = [*options, "--run-dir", run_dir, *joining, "--process-id"]
    return [start("train", *options, i) for i in (0, 1)]


def finish_all(processes):
    ended = [finish(process) for process in processes]
    assert [status for status, _ in ended] == [0, 0], ended
    return [said for _, said in ended]


def metrics(run_dir):
    """Returns the metric rows of a run, without ``seconds``."""
    path = run_dir / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
