"""Which checkpoints are kept, and what a resumed run knows of them."""

import jax
import numpy as np
import pytest

pytest.importorskip("orbax.checkpoint", reason="needs focal_sam_jax[experiments]")

from tiny_runs import make, tiny

from experiments.training.checkpoint import Best, Checkpoints


@pytest.fixture(scope="module")
def trained():
    config, dataset = tiny("sgd")
    trainer, *_ = make(config, dataset)
    return config, trainer.shapes, trainer.init(jax.random.key(0))


def save_all(run_dir, trained, accuracies, best=Best()):  # noqa: B008
    """A save after every look at the validation split, each a process of its own."""
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


def test_an_empty_folder_has_no_latest(trained, tmp_path):
    config, shapes, _ = trained
    checkpoints = Checkpoints(tmp_path, config, shapes)
    assert checkpoints.latest() is None
    checkpoints.close()
