"""Tests that killed, stopped or damaged runs lose nothing and stay correct."""

import random
import re
import shlex
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

pytest.importorskip("orbax.checkpoint", reason="needs focal_sam_jax[experiments]")

from commands import PATIENCE, finish, metrics, start
from tiny_runs import FLAGS, make, run_train

from experiments.data.load import load_dataset
from experiments.errors import UserError
from experiments.records.manifest import config_of, read_manifest
from experiments.training.checkpoint import Checkpoints
from experiments.training.loop import StopSignal

# Saves every epoch; averaged weights are in the state.
EVERY = [*FLAGS, "--eval-every", "5", "--ema", "0.9", "--checkpoint-every", "1"]
SHORT, JOB = [*EVERY, "--epochs", "9"], [*EVERY, "--epochs", "60"]


def undisturbed(job, run_dir):
    """Trains without interruption."""
    status, said = finish(start("train", *job, "--run-dir", run_dir))
    assert status == 0, said
    return run_dir


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return undisturbed(JOB, tmp_path_factory.mktemp("runs") / "whole")


def final_state(run_dir):
    config = config_of(read_manifest(run_dir))
    trainer, *_ = make(config, load_dataset(config, run_dir))
    checkpoints = Checkpoints(run_dir, config, trainer.shapes)
    step, state, best = checkpoints.restore(checkpoints.latest())
    checkpoints.close()
    return step, best, jax.tree.map(np.asarray, state)


def assert_the_same(run_dir, other):
    assert metrics(run_dir) == metrics(other)
    here, there = final_state(run_dir), final_state(other)
    assert here[:2] == there[:2]
    jax.tree.map(np.testing.assert_array_equal, here[2], there[2])


def unfinished_saves(run_dir):
    return list((run_dir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def rows(run_dir):
    path = run_dir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.parametrize(
    ("wanted", "job"), [(2, SHORT), pytest.param(10, JOB, marks=pytest.mark.slow)]
)
def test_a_run_killed_many_times_ends_bit_for_bit_the_same(
    wanted, job, tmp_path, request
):
    if job is JOB:
        whole = request.getfixturevalue("whole")
    else:
        whole = undisturbed(job, tmp_path / "whole")
    run_dir, draw = tmp_path / "killed", random.Random(0)
    kills = in_a_save = 0
    while kills < wanted:
        begun = rows(run_dir)
        process = start("train", *job, "--run-dir", run_dir, "--resume")
        deadline = time.monotonic() + PATIENCE
        while rows(run_dir) <= begun and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        if kills % 2:  # Kill during a save,
            while not unfinished_saves(run_dir) and process.poll() is None:
                pass
        else:  # or at a random time.
            time.sleep(draw.uniform(0, 0.5))
        assert process.poll() is None, finish(process)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
        in_a_save += bool(unfinished_saves(run_dir))

    status, said = finish(start("train", *job, "--run-dir", run_dir, "--resume"))
    assert status == 0, said
    print(f"{kills} kills, {in_a_save} of them inside a save")
    assert in_a_save >= wanted // 4
    assert_the_same(run_dir, whole)


@pytest.mark.slow
def test_every_signal_saves_in_the_middle_of_an_epoch(whole, tmp_path):
    run_dir = tmp_path / "stopped"
    job = ("train", *JOB, "--run-dir", run_dir, "--resume")
    again = shlex.join(["python", "-m", "experiments.train", *map(str, job[1:])])
    for name, wanted in {"SIGTERM": 143, "SIGINT": 130, "SIGHUP": 129}.items():
        begun = rows(run_dir)
        process = start(*job)
        while rows(run_dir) < begun + 7:
            assert process.poll() is None, finish(process)
            time.sleep(0.001)
        process.send_signal(getattr(signal, name))
        status, said = finish(process)
        assert status == wanted, said
        assert "stopped: saved after step" in said
        assert f"continue with:\n{again}\n" in said
        assert ("press Ctrl-C again to stop at once" in said) == (name == "SIGINT")
        step = max(int(path.name) for path in (run_dir / "checkpoints").iterdir())
        assert f"after step {step};" in said
    status, said = finish(start(*job))
    assert status == 0, said
    assert_the_same(run_dir, whole)


class Stops:
    """Fake checkpoints; ``reached_preemption`` must not be called."""

    def reached_preemption(self, step):
        raise AssertionError


@pytest.fixture
def hears_ctrl_c():
    """Handles SIGINT, even if background tests ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_ends_at_once(hears_ctrl_c):
    said = []
    with StopSignal(Stops(), said.append) as stop:
        assert not stop.after(1)
        signal.raise_signal(signal.SIGINT)
        assert stop.after(1) == signal.SIGINT and len(said) == 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopSignal(Stops(), print) as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.after(1)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def go_on(run_dir):
    """Resumes in this process, which already compiled it."""
    run_train(run_dir, *JOB, "--resume")


def newest(run_dir):
    return max((run_dir / "checkpoints").iterdir(), key=lambda path: int(path.name))


def everything_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_left_alone(copy):
    checkpoint = newest(copy)
    shutil.rmtree(checkpoint / "state")
    before = everything_in(copy / "checkpoints")
    with pytest.raises(UserError) as refused:
        go_on(copy)
    said = str(refused.value)
    assert "\n" not in said and f"{checkpoint} is damaged" in said
    assert everything_in(copy / "checkpoints") == before

    # After the command in the message, it resumes from the previous checkpoint.
    (move,) = re.findall("after `(mv .*)` the same command", said)
    subprocess.run(move, shell=True, check=True)
    go_on(copy)


@pytest.mark.slow
def test_a_foreign_checkpoint_is_refused_and_left_alone(copy, tmp_path):
    other = tmp_path / "other"
    run_train(other, *FLAGS, "--width", "3", "--epochs", "1")
    shutil.rmtree(copy / "checkpoints")
    shutil.copytree(other / "checkpoints", copy / "checkpoints")
    before = everything_in(copy / "checkpoints")
    with pytest.raises(UserError, match="another configuration.*width: 3 then, 2 now"):
        go_on(copy)
    assert everything_in(copy / "checkpoints") == before

    # A new run does not start in a folder that holds checkpoints.
    (copy / "manifest.json").unlink()
    (copy / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="already contains a run"):
        run_train(copy, *JOB)
    assert everything_in(copy / "checkpoints") == before
