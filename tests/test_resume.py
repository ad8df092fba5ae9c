"""A run that is killed, stopped or tampered with: nothing is lost, nothing is wrong."""

import random
import re
import shutil
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

pytest.importorskip("orbax.checkpoint", reason="needs focal_sam_jax[experiments]")

from commands import PATIENCE, finish, metrics, start
from tiny_runs import FLAGS, make

from experiments.data.load import load_dataset
from experiments.records.manifest import config_of, read_manifest
from experiments.training.checkpoint import Checkpoints

# Every epoch saves, and averaged weights are in the state.
EVERY = [*FLAGS, "--eval-every", "5", "--ema", "0.9", "--checkpoint-every", "1"]
SHORT, JOB = [*EVERY, "--epochs", "12"], [*EVERY, "--epochs", "60"]


def undisturbed(job, run_dir):
    """A run that nothing disturbs."""
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
    ("wanted", "job"), [(3, SHORT), pytest.param(20, JOB, marks=pytest.mark.slow)]
)
def test_a_run_killed_many_times_ends_bit_for_bit_the_same(wanted, job, tmp_path):
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
        if kills % 2:  # As soon as a save has begun and not ended,
            while not unfinished_saves(run_dir) and process.poll() is None:
                pass
        else:  # or at any moment.
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
def test_sigterm_saves_in_the_middle_of_an_epoch(whole, tmp_path):
    run_dir = tmp_path / "stopped"
    options = [*JOB, "--run-dir", run_dir]
    process = start("train", *options)
    while rows(run_dir) < 7:
        assert process.poll() is None, finish(process)
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    status, said = finish(process)
    assert status == 1
    assert "stopped: saved after step" in said and "--resume" in said
    step = max(int(path.name) for path in (run_dir / "checkpoints").iterdir())
    assert f"after step {step};" in said

    status, said = finish(start("train", *options, "--resume"))
    assert status == 0, said
    assert_the_same(run_dir, whole)


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "copy")


def newest(run_dir):
    return max((run_dir / "checkpoints").iterdir(), key=lambda path: int(path.name))


def everything_in(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["emptied", "truncated", "removed"])
def test_a_damaged_checkpoint_is_named_and_left_alone(copy, damage):
    checkpoint = newest(copy)
    state = max(
        (path for path in checkpoint.rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    match damage:
        case "emptied":
            state.write_bytes(b"")
        case "truncated":
            state.write_bytes(state.read_bytes()[: state.stat().st_size // 2])
        case "removed":
            shutil.rmtree(checkpoint / "state")
    before = everything_in(copy / "checkpoints")
    status, said = finish(start("train", *JOB, "--run-dir", copy, "--resume"))
    assert status == 2, said
    assert said.count("\n") == 1, said
    assert str(checkpoint) in said and f"after `mv {checkpoint} " in said
    assert everything_in(copy / "checkpoints") == before


@pytest.mark.slow
def test_a_run_goes_on_from_the_checkpoint_before(copy):
    """By the command in the message about a damaged one."""
    shutil.rmtree(newest(copy) / "state")
    resume = ("train", *JOB, "--run-dir", copy, "--resume")
    _, said = finish(start(*resume))
    (move,) = re.findall("after `(mv .*)` the same command", said)
    subprocess.run(move, shell=True, check=True)
    status, said = finish(start(*resume))
    assert status == 0, said


@pytest.mark.slow
def test_a_foreign_checkpoint_is_refused_and_left_alone(copy, tmp_path):
    other = tmp_path / "other"
    options = [*FLAGS, "--width", "3", "--epochs", "2", "--run-dir", other]
    status, said = finish(start("train", *options))
    assert status == 0, said
    shutil.rmtree(copy / "checkpoints")
    shutil.copytree(other / "checkpoints", copy / "checkpoints")
    before = everything_in(copy / "checkpoints")
    status, said = finish(start("train", *JOB, "--run-dir", copy, "--resume"))
    assert status == 2, said
    assert "another configuration" in said and "width: 3 then, 2 now" in said
    assert everything_in(copy / "checkpoints") == before

    # Nor does a new run begin in a folder that holds checkpoints.
    (copy / "manifest.json").unlink()
    (copy / "metrics.jsonl").unlink()
    status, said = finish(start("train", *JOB, "--run-dir", copy))
    assert status == 2 and "already holds a run" in said
    assert everything_in(copy / "checkpoints") == before
