"""Two processes with a device each compute what one process does."""

import itertools
import os
import subprocess
import sys
import time

import distributed_worker
import jax
import numpy as np
import pytest
from commands import PATIENCE, ROOT, free_port

pytestmark = pytest.mark.slow


PROCESSES = 2


def wait_for(workers, logs):
    """Waits until all have ended, or one has failed."""
    deadline = time.monotonic() + PATIENCE
    try:
        while any(worker.poll() is None for worker in workers):
            if any(worker.poll() for worker in workers) or time.monotonic() > deadline:
                break
            time.sleep(0.05)
        ends = [worker.poll() for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    if any(end != 0 for end in ends):
        said = [f"worker {rank}:\n{log.read_text()}" for rank, log in enumerate(logs)]
        pytest.fail("\n".join([f"exit statuses {ends} (None: still running)", *said]))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Returns the results of each process, as mappings from names to arrays."""
    folder = tmp_path_factory.mktemp("workers")
    environment = dict(os.environ, JAX_PLATFORMS="cpu")
    environment.pop("XLA_FLAGS")  # Only this process has eight devices.
    paths = [str(ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    address = f"127.0.0.1:{free_port()}"
    workers, logs = [], []
    for rank in range(PROCESSES):
        logs.append(folder / f"{rank}.log")
        arguments = [address, str(rank), str(PROCESSES), str(folder / f"{rank}.npz")]
        command = [sys.executable, distributed_worker.__file__, *arguments]
        with logs[-1].open("w") as log:
            worker = subprocess.Popen(
                command, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        workers.append(worker)
    wait_for(workers, logs)
    return [np.load(folder / f"{rank}.npz") for rank in range(PROCESSES)]


@pytest.mark.parametrize("method", distributed_worker.METHODS)
@pytest.mark.parametrize("way", distributed_worker.WAYS)
def test_every_process_gets_the_numbers_of_one(results, method, way):
    wanted = distributed_worker.train(method, way, jax.devices()[:1])
    for rank, name in itertools.product(range(PROCESSES), wanted):
        error = results[rank][f"{method} {way} {name}"] - wanted[name]
        assert np.linalg.norm(error) <= 1e-6 * np.linalg.norm(wanted[name])
