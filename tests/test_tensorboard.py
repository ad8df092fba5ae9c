"""Tests of a run's event files with TensorBoard's own reader."""

import numpy as np
import pytest

pytest.importorskip("tensorboardX", reason="needs focal_sam_jax[experiments]")
pytest.importorskip("tensorboard", reason="needs focal_sam_jax[test]")

from tensorboard.backend.event_processing.event_accumulator import (
    SCALARS,
    EventAccumulator,
)

from experiments.records.rows import RowWriter

STEPS_PER_EPOCH = 7


def epoch_rows(epoch):
    place = {"epoch": epoch, "step": epoch * STEPS_PER_EPOCH}
    train = {"split": "train", **place, "loss": 1 / epoch, "skipped": 0}
    validation = {"split": "validation", **place, "accuracy": epoch / 10}
    shots = {"accuracy_many": 0.5, "accuracy_few": None}
    return [train, {**validation, **shots, "accuracy_per_class": [0.5, None]}]


def result(which, epoch, accuracy):
    place = {"epoch": epoch, "step": epoch * STEPS_PER_EPOCH}
    return {"split": "test", "which": which, **place, "accuracy": accuracy}


def train(run_dir, epochs, *, more=(), after=0):
    """Writes the records like a run that resumes after ``after`` epochs."""
    rows = RowWriter(run_dir, keep_until_step=after * STEPS_PER_EPOCH, writes=True)
    new = [row for epoch in epochs for row in epoch_rows(epoch)]
    for row in (*new, *more):
        rows.append(row)
    rows.close()
    # The file's name holds the second; no real run resumes within the same one.
    (file,) = run_dir.glob("events.out.tfevents.[1-9]*")
    earlier = len(list(run_dir.glob("events.out.tfevents.0*")))
    file.rename(run_dir / f"events.out.tfevents.{earlier:010}.host")


def read(run_dir):
    """Steps and values of every scalar."""
    events = EventAccumulator(str(run_dir), size_guidance={SCALARS: 0})
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def losses(epochs):
    return [(e * STEPS_PER_EPOCH, np.float32(1 / e)) for e in epochs]


def test_every_number_of_a_row_is_a_point_at_its_step(tmp_path):
    train(tmp_path, range(1, 4))
    found = read(tmp_path)
    assert found["train/loss"] == losses(range(1, 4))
    assert found["validation/accuracy"][0] == (STEPS_PER_EPOCH, np.float32(0.1))
    assert set(found) == {
        *("train/loss", "train/skipped"),
        *("validation/accuracy", "validation/accuracy_many"),
    }


def test_the_last_epoch_and_the_best_do_not_mix(tmp_path):
    train(tmp_path, [1, 2], more=[result("last", 2, 0.25), result("best", 1, 0.5)])
    found = read(tmp_path)
    assert found["test_last/accuracy"] == [(2 * STEPS_PER_EPOCH, 0.25)]
    assert found["test_best/accuracy"] == [(STEPS_PER_EPOCH, 0.5)]


def test_a_resumed_run_has_every_point_once(tmp_path):
    train(tmp_path, range(1, 6))
    train(tmp_path, range(4, 9), after=3)
    found = read(tmp_path)
    assert found["train/loss"] == losses(range(1, 9))
    assert [step for step, _ in found["validation/accuracy"]] == [
        epoch * STEPS_PER_EPOCH for epoch in range(1, 9)
    ]


def test_what_came_after_the_checkpoint_is_gone_at_once(tmp_path):
    train(tmp_path, range(1, 6))
    train(tmp_path, [], after=2)
    assert read(tmp_path)["train/loss"] == losses([1, 2])


def test_a_finished_run_that_is_resumed_has_its_test_once(tmp_path):
    results = [result("last", 2, 0.25), result("best", 1, 0.5)]
    train(tmp_path, [1, 2], more=results)
    train(tmp_path, [], more=results, after=2)
    found = read(tmp_path)
    assert found["train/loss"] == losses([1, 2])
    assert found["test_last/accuracy"] == [(2 * STEPS_PER_EPOCH, 0.25)]
    assert found["test_best/accuracy"] == [(STEPS_PER_EPOCH, 0.5)]


def test_points_that_a_crash_kept_from_the_disk_come_back(tmp_path):
    train(tmp_path, [1, 2])
    for file in tmp_path.glob("events.*"):
        file.write_bytes(file.read_bytes()[:100])
    train(tmp_path, [3], after=2)
    assert read(tmp_path)["train/loss"] == losses([1, 2, 3])


def test_a_line_that_a_crash_cut_short_is_no_row(tmp_path):
    train(tmp_path, [1])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"split": "tra')
    train(tmp_path, [2], after=1)
    assert read(tmp_path)["train/loss"] == losses([1, 2])


def test_a_number_that_is_not_finite_is_a_point_too(tmp_path):
    row = {"split": "train", "epoch": 1, "step": 1}
    row |= {"loss": float("nan"), "train_accuracy": float("inf")}
    train(tmp_path, [], more=[row])
    found = read(tmp_path)
    assert np.isnan(found["train/loss"][0][1])
    assert found["train/train_accuracy"] == [(1, float("inf"))]
