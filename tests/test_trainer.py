"""The compiled training loop: one step, an epoch as a loop or as a scan, many seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax", reason="needs focal_sam_jax[experiments]")

from experiments import trainer as trainer_module
from experiments.config import METHODS
from experiments.configs import get_config
from experiments.data.load import load_dataset
from experiments.evaluation import evaluation_batches, scores
from experiments.metrics import SHOT_THRESHOLDS
from experiments.trainer import make_trainer

TINY = {"width": 2, "epochs": 3, "batch_size": 128}


def tiny(method="focal_sam", **changes):
    config = get_config("digits_lt", method).replace(**TINY).replace(**changes)
    return config, load_dataset(config)


def epochs(trainer, dataset, seed=0, number=2):
    key = jax.random.key(seed)
    state = trainer.init(key)
    data = jax.device_put(dataset.train)
    for epoch in range(number):
        state, metrics = trainer.run_epoch(state, data, key, epoch)
    return state, metrics


def assert_close(here, there, rtol=1e-3, atol=1e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), here, there
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_says_what_it_saw(method):
    config, dataset = tiny(method, epochs=10)
    trainer = make_trainer(config, dataset)
    _, first = epochs(trainer, dataset, number=1)
    state, last = epochs(trainer, dataset, number=10)
    assert last["loss"] < 0.8 * first["loss"]
    assert state.step == 10 * trainer.steps_per_epoch == 20
    seen = {"loss", "train_accuracy", "sharpness", "ascent_norm"}
    assert set(last) == (seen if method != "sgd" else {"loss", "train_accuracy"})


def test_a_scanned_epoch_is_the_looped_one(monkeypatch):
    config, dataset = tiny()
    looped = epochs(make_trainer(config, dataset), dataset)
    monkeypatch.setattr(trainer_module, "scan_is_fast", lambda: True)
    scanned = epochs(make_trainer(config, dataset), dataset)
    assert_close(scanned[0].params, looped[0].params)
    assert_close(scanned[1], looped[1])


def test_seeds_at_once_are_the_seeds_one_by_one():
    config, dataset = tiny("sgd")
    trainer = make_trainer(config, dataset)
    alone = [epochs(trainer, dataset, seed) for seed in (3, 4)]
    trainer = make_trainer(config, dataset, over_seeds=True)
    keys = jnp.stack([jax.random.key(3), jax.random.key(4)])
    data = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), dataset.train)
    state = trainer.init(keys)
    for epoch in range(2):
        state, _ = trainer.run_epoch(state, data, keys, epoch)
    for i in range(2):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], state.params)
        assert_close(own, alone[i][0].params)


def test_later_epochs_and_other_seeds_compile_nothing(caplog):
    config, dataset = tiny("sgd")
    trainer = make_trainer(config, dataset)
    other = load_dataset(config.replace(subset_seed=7))
    with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
        epochs(trainer, dataset, number=2)
        assert "Compiling" in caplog.text
        caplog.clear()
        epochs(trainer, other, seed=1, number=3)
        assert "Compiling" not in caplog.text


def test_the_state_is_donated():
    config, dataset = tiny("sgd")
    trainer = make_trainer(config, dataset)
    key = jax.random.key(0)
    before = trainer.init(key)
    trainer.run_epoch(before, jax.device_put(dataset.train), key, 0)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))


def test_batch_statistics_are_those_at_the_parameters():
    plain, dataset = tiny("sgd", augment=False)
    sharp, _ = tiny("focal_sam", augment=False, rho=0.5)
    one_batch = {"batch_size": 400}
    states = [
        epochs(make_trainer(config.replace(**one_batch), dataset), dataset, number=1)[0]
        for config in (plain, sharp)
    ]
    assert_close(states[0].batch_stats, states[1].batch_stats, rtol=1e-5)


def test_evaluation_is_exact_for_any_batch_size(monkeypatch):
    config, dataset = tiny("sgd")
    trainer = make_trainer(config, dataset)
    state, _ = epochs(trainer, dataset)
    found = []
    for size in (500, 512, 64, 7):
        monkeypatch.setattr("experiments.evaluation._BATCH_SIZE", size)
        sums = trainer.evaluate(state, evaluation_batches(dataset.test))
        thresholds = SHOT_THRESHOLDS["digits_lt"]
        found.append(scores(sums, dataset.test, dataset, thresholds))
    assert 0 < found[0]["accuracy"] < 1
    for other in found[1:]:
        assert other["accuracy_per_class"] == found[0]["accuracy_per_class"]
        assert other["loss"] == pytest.approx(found[0]["loss"], rel=1e-5)
