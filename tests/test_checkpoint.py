"""Tests of which checkpoints are kept, and what a resumed run reads."""

import json

import jax
import numpy as np
import pytest

pytest.importorskip("orbax.checkpoint", reason="needs focal_sam_jax[experiments]")

from tiny_runs import make, tiny

from experiments.errors import UserError
from experiments.training.checkpoint import (
    Best,
    Checkpoints,
    checksum,
    last_network,
)


@pytest.fixture(scope="module")
def trained():
    config, dataset = tiny("sgd")
    trainer, *_ = make(config, dataset)
    return config, trainer.shapes, trainer.init(jax.random.key(0))


def save_all(run_dir, trained, accuracies, best=Best()):  # noqa: B008
    """Saves after each validation with a new ``Checkpoints``; returns kept steps."""
    config, shapes, state = trained
    for step, accuracy in accuracies:
        checkpoints = Checkpoints(run_dir, config, shapes)
        if accuracy > best.accuracy:
            best = Best(accuracy, step)
        checkpoints.save(step, state._replace(step=np.int32(step)), best)
        checkpoints.close()
    return {int(path.name) for path in (run_dir / "checkpoints").iterdir()}


def test_the_last_two_and_the_best_are_kept_over_restarts(trained, tmp_path):
    accuracies = [(1, 0.2), (2, 0.7), (3, 0.7), (4, 0.1), (5, 0.6), (6, 0.5)]
    assert save_all(tmp_path, trained, accuracies) == {2, 5, 6}
    config, shapes, _ = trained
    checkpoints = Checkpoints(tmp_path, config, shapes)
    step, state, best = checkpoints.restore(checkpoints.latest())
    assert (step, int(state.step), best) == (6, 6, Best(0.7, 2))
    assert checkpoints.restore(best.step)[1].step == 2
    checkpoints.close()


def test_without_a_validation_split_the_last_two_are_kept(trained, tmp_path):
    assert save_all(tmp_path, trained, [(s, -1.0) for s in range(1, 5)]) == {3, 4}


def test_a_step_that_is_there_is_left_alone(trained, tmp_path):
    config, shapes, state = trained
    save_all(tmp_path, trained, [(1, 0.5)])
    checkpoints = Checkpoints(tmp_path, config, shapes)
    checkpoints.save(1, state._replace(step=np.int32(77)), Best(0.9, 1))
    assert checkpoints.restore(1)[1].step == 1
    checkpoints.close()


@pytest.mark.parametrize("damage", ["inverted", "truncated"])
def test_damaged_files_are_found(trained, tmp_path, damage):
    save_all(tmp_path, trained, [(1, 0.5), (2, 0.6)])
    files = [p for p in (tmp_path / "checkpoints/2/state").rglob("*") if p.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    middle = len(content) // 2
    if damage == "inverted":
        content[middle : middle + 50] = bytes(b ^ 255 for b in content[middle:][:50])
    else:
        del content[middle:]
    largest.write_bytes(content)
    config, shapes, _ = trained
    checkpoints = Checkpoints(tmp_path, config, shapes)
    words = "2 is damaged .*the same command continues from the previous one, of step 1"
    with pytest.raises(UserError, match=words):
        checkpoints.restore(2)
    assert checkpoints.restore(1)[0] == 1
    checkpoints.close()
    with pytest.raises(UserError, match="2 is damaged"):
        last_network(tmp_path)


def test_metrics_of_a_checkpoint_that_are_empty_are_named(trained, tmp_path):
    save_all(tmp_path, trained, [(1, 0.5), (2, 0.6)])
    (tmp_path / "checkpoints/2/metrics/metrics").write_text("")
    config, shapes, _ = trained
    with pytest.raises(UserError, match="2 is damaged .* previous one, of step 1"):
        Checkpoints(tmp_path, config, shapes)


def test_checkpoints_that_are_a_file_are_named(trained, tmp_path):
    (tmp_path / "checkpoints").touch()
    config, shapes, _ = trained
    with pytest.raises(UserError, match="checkpoints must be the folder of"):
        Checkpoints(tmp_path, config, shapes)


def test_a_checkpoint_of_before_has_no_checksum(trained, tmp_path):
    save_all(tmp_path, trained, [(1, 0.5)])
    about = tmp_path / "checkpoints/1/about/metadata"
    content = json.loads(about.read_text())
    del content["checksum"]
    about.write_text(json.dumps(content))
    assert last_network(tmp_path)[0] == 1


@pytest.mark.parametrize("dtype", ["uint8", "float16", "int32", "float32"])
def test_every_bit_and_every_place_counts(dtype):
    raw = np.frombuffer(np.random.default_rng(0).bytes(24), np.uint8)
    seen = {checksum({"x": raw.view(dtype), "y": np.arange(3)})}
    for bit in range(8 * raw.size):
        changed = raw.copy()
        changed[bit // 8] ^= 1 << bit % 8
        seen.add(checksum({"x": changed.view(dtype), "y": np.arange(3)}))
    seen.add(checksum({"x": raw.view(dtype)[::-1], "y": np.arange(3)}))
    assert len(seen) == 1 + 8 * raw.size + 1
    shaped = raw.view(dtype).reshape(2, -1)
    assert checksum([np.arange(3), shaped]) in seen  # order and shape do not matter
    assert checksum([np.array([True])]) != checksum([np.array([False])])


def test_an_empty_folder_has_no_latest(trained, tmp_path):
    config, shapes, _ = trained
    checkpoints = Checkpoints(tmp_path, config, shapes)
    assert checkpoints.latest() is None
    checkpoints.close()
