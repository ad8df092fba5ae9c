"""The same run on one process and on two, on one device and on several."""

import re
import shutil
import signal
import time

import pytest

pytest.importorskip("orbax.checkpoint", reason="needs focal_sam_jax[experiments]")

from commands import PATIENCE, finish, finish_all, metrics, start, start_two

JOB = ["--width", "2", "--batch-size", "128", "--epochs", "3", "--eval-every", "1"]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Both hold one half of the state, in memory and in the checkpoint."""
    run_dir = tmp_path_factory.mktemp("runs") / "two"
    return run_dir, finish_all(start_two(run_dir, *JOB, "--split-state"))


@pytest.mark.slow
def test_two_processes_give_the_metrics_of_one(two, tmp_path):
    run_dir, said = two
    assert "Test accuracy" in said[0]
    assert "Test accuracy" not in said[1]
    flags = "--xla_force_host_platform_device_count=2"
    options = [*JOB, "--run-dir", tmp_path / "one"]
    status, words = finish(start("train", *options, XLA_FLAGS=flags))
    assert status == 0, words
    assert metrics(run_dir) == metrics(tmp_path / "one")


@pytest.mark.slow
def test_a_split_state_is_resumed(two, tmp_path):
    run_dir = shutil.copytree(two[0], tmp_path / "resumed")
    finish_all(start_two(run_dir, *JOB, "--split-state", "--resume"))
    assert metrics(run_dir) == metrics(two[0])


@pytest.mark.slow
def test_sigterm_to_one_process_stops_both_at_the_same_step(tmp_path):
    run_dir = tmp_path / "stopped"
    processes = start_two(run_dir, *JOB, "--epochs", 2000)
    deadline = time.monotonic() + PATIENCE
    while not (run_dir / "metrics.jsonl").exists() or len(metrics(run_dir)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    ended = [finish(process) for process in processes]
    assert [status for status, _ in ended] == [143, 143], ended
    steps = [re.findall(r"saved after step (\d+);", said) for _, said in ended]
    assert len(steps[0]) == 1 and steps[0] == steps[1]
    assert (run_dir / "checkpoints" / steps[0][0]).exists()


@pytest.mark.slow
def test_a_mistake_ends_both_processes(two):
    ended = [finish(process) for process in start_two(two[0], *JOB)]
    assert [status for status, _ in ended] == [2, 2], ended
    assert "already contains a run" in ended[0][1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--coordinator", "localhost:1"], "given together"),
        (["--devices", "3"], "must be from 1 to 1, the number of devices, got 3"),
    ],
)
def test_a_mistake_about_the_devices_is_explained(options, words, tmp_path):
    process = start("train", *JOB, "--run-dir", tmp_path / "run", *options)
    status, said = finish(process)
    assert status == 2 and words in said
    assert not (tmp_path / "run").exists()
