"""The compiled training loop: one step, an epoch as a loop or as a scan, many seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax", reason="needs focal_sam_jax[experiments]")

from experiments import sharding
from experiments import trainer as trainer_module
from experiments.config import METHODS
from experiments.configs import get_config
from experiments.data.batches import padded_batches
from experiments.data.load import load_dataset
from experiments.evaluation import scores
from experiments.step import epoch_means
from experiments.trainer import make_trainer

TINY = {"width": 2, "epochs": 3, "batch_size": 128}
ONE = sharding.device_mesh(1)


def tiny(method="focal_sam", loss=None, **changes):
    config = get_config("digits_lt", method, loss).replace(**TINY).replace(**changes)
    return config, load_dataset(config, None)


def epochs(trainer, dataset, seed=0, number=2):
    key = jax.random.key(seed)
    state = trainer.init(key)
    data = jax.device_put(dataset.train)
    for epoch in range(number):
        inputs = data, trainer.order(key, epoch)
        state = trainer.advance(state, inputs, key, trainer.steps_per_epoch)
    return state


def assert_close(here, there, rtol=1e-3, atol=1e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), here, there
    )


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_says_what_it_saw(method):
    config, dataset = tiny(method, epochs=10)
    trainer = make_trainer(config, dataset, ONE)
    first = epoch_means(epochs(trainer, dataset, number=1).sums)
    state = epochs(trainer, dataset, number=10)
    last = epoch_means(state.sums)
    assert last["loss"] < 0.8 * first["loss"]
    assert state.step == 10 * trainer.steps_per_epoch == 20
    seen = {"loss", "train_accuracy", "sharpness", "ascent_norm"}
    assert set(last) == (seen if method != "sgd" else {"loss", "train_accuracy"})


EXTRAS = {
    "averages": {"ema": 0.9},
    "mixing": {"mixup": 1.0},
    "cutting": {"cutout": 3},
    "half precision": {"precision": "bfloat16"},
    "cosine head": {"head": "cosine", "loss": "ldam", "drw_start": 1},
    "radius in steps": {"rho_schedule": "step"},
}


@pytest.mark.usefixtures("quick_compile")
@pytest.mark.parametrize("changes", EXTRAS.values(), ids=EXTRAS)
def test_every_extra_learns(changes):
    config, dataset = tiny("sam", epochs=10, **changes)
    trainer = make_trainer(config, dataset, ONE)
    first = epoch_means(epochs(trainer, dataset, number=1).sums)
    last = epoch_means(epochs(trainer, dataset, number=10).sums)
    assert last["loss"] < first["loss"]


def test_a_device_loop_is_step_by_step(monkeypatch):
    config, dataset = tiny()
    one_by_one = epochs(make_trainer(config, dataset, ONE), dataset)
    monkeypatch.setattr(trainer_module, "scan_is_fast", lambda: True)
    looped = epochs(make_trainer(config, dataset, ONE), dataset)
    assert_close(looped.params, one_by_one.params)
    assert_close(looped.sums, one_by_one.sums)


def test_seeds_at_once_are_the_seeds_one_by_one():
    config, dataset = tiny("sgd")
    trainer = make_trainer(config, dataset, ONE)
    alone = [epochs(trainer, dataset, seed) for seed in (3, 4)]
    trainer = make_trainer(config, dataset, ONE, over_seeds=True)
    keys = jnp.stack([jax.random.key(3), jax.random.key(4)])
    data = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), dataset.train)
    state = trainer.init(keys)
    for epoch in range(2):
        inputs = data, trainer.order(keys, epoch)
        state = trainer.advance(state, inputs, keys, trainer.steps_per_epoch)
    for i in range(2):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], state.params)
        assert_close(own, alone[i].params)


@pytest.mark.parametrize("loop", [False, True])
def test_later_epochs_and_other_seeds_compile_nothing(loop, caplog, monkeypatch):
    monkeypatch.setattr(trainer_module, "scan_is_fast", lambda: loop)
    config, dataset = tiny("sgd")
    trainer = make_trainer(config, dataset, ONE)
    other = load_dataset(config.replace(subset_seed=7), None)
    with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
        epochs(trainer, dataset, number=2)
        assert "Compiling" in caplog.text
        caplog.clear()
        epochs(trainer, other, seed=1, number=3)
        assert "Compiling" not in caplog.text


def test_the_state_is_donated():
    config, dataset = tiny("sgd")
    trainer = make_trainer(config, dataset, ONE)
    key = jax.random.key(0)
    before = trainer.init(key)
    inputs = jax.device_put(dataset.train), trainer.order(key, 0)
    trainer.advance(before, inputs, key, 1)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))


def test_batch_statistics_are_those_at_the_parameters():
    plain, dataset = tiny("sgd", augment="none", batch_size=400)
    sharp = plain.replace(method="focal_sam", rho=0.5)
    states = [
        epochs(make_trainer(config, dataset, ONE), dataset, number=1)
        for config in (plain, sharp)
    ]
    assert_close(states[0].batch_stats, states[1].batch_stats, rtol=1e-5)


def test_evaluation_is_exact_for_any_batch_size():
    config, dataset = tiny("sgd")
    trainer = make_trainer(config, dataset, ONE)
    state = epochs(trainer, dataset)
    found = []
    for size in (500, 512, 64, 7):
        sums = trainer.evaluate(state, padded_batches(dataset.test, size))
        found.append(scores(sums, dataset.class_counts, config))
    assert 0 < found[0]["accuracy"] < 1
    for other in found[1:]:
        assert other["accuracy_per_class"] == found[0]["accuracy_per_class"]
        assert other["loss"] == pytest.approx(found[0]["loss"], rel=1e-5)
        assert other["ece"] == pytest.approx(found[0]["ece"], rel=1e-4)
