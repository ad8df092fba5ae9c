"""Running the experiments' commands as processes of their own."""

import json
import os
import subprocess
import sys

# Seconds that a process may take: many times what it does take, since a machine may be
# slow or busy, and a test should fail for what it tests.
PATIENCE = 1200
# Python that hears Ctrl-C, also where the tests run in the background, deaf to it.
_HEAR = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL)"
PYTHON = [sys.executable, "-c", f"{_HEAR}; os.execv(sys.executable, sys.argv[1:])"]
PYTHON += [sys.executable]


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
    """Its exit status and what it said, both channels."""
    output, errors = process.communicate(timeout=timeout)
    return process.returncode, output + errors


def metrics(run_dir):
    """The rows of a run, without what a clock said."""
    path = run_dir / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
