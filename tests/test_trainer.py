"""The compiled training loop: one step, an epoch as a loop or as a scan, many seeds."""

from functools import cache
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("flax", reason="needs focal_sam_jax[experiments]")

from tiny_runs import ONE, make, tiny, train

from experiments.configs import get_config
from experiments.data.batches import epoch_sizes, padded_batches, shuffled_batches
from experiments.data.feed import EpochInMemory, make_feed
from experiments.data.images.resize import resize
from experiments.data.load import load_dataset
from experiments.errors import UserError
from experiments.training.evaluate import eval_logits, scores
from experiments.training.step import epoch_means
from experiments.training.trainer import make_trainer


def assert_close(here, there, rtol=1e-3, atol=1e-5):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), here, there
    )


@pytest.mark.by_default(method=("focal_sam",))
@pytest.mark.parametrize("method", ["sgd", "focal_sam"])
def test_training_learns_and_says_what_it_saw(method):
    config, dataset = tiny(method, epochs=10)
    made = make(config, dataset)
    first = epoch_means(train(*made).sums)
    state = train(*made, epochs=10)
    last = epoch_means(state.sums)
    assert last["loss"] < 0.8 * first["loss"]
    assert state.step == 10 * made[1].steps_per_epoch == 20
    seen = {"loss", "train_accuracy", "sharpness", "ascent_norm"}
    assert set(last) == (seen if method != "sgd" else {"loss", "train_accuracy"})


EXTRAS = {
    "averages": {"ema": 0.9},
    "half precision": {"precision": "bfloat16"},
    "cosine head": {"head": "cosine", "loss": "ldam", "drw_start": 1},
    "radius in steps": {
        "rho_schedule": "step",
        "rho_milestones": (5,),
        "rho_values": (0.0, 0.5),
    },
}


@cache
def after_ten_epochs():
    return body(train(*make(*tiny("sam", epochs=10)), epochs=10))


def body(state):
    """The weights that are evaluated, without the last layer."""
    return {k: v for k, v in state.evaluated[0].items() if k != "head"}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXTRAS)
def test_every_extra_learns_and_changes_what_is_learned(name):
    made = make(*tiny("sam", epochs=10, **EXTRAS[name]))
    states = [train(*made, epochs=n) for n in (1, 10)]
    first, last = (epoch_means(state.sums) for state in states)
    assert last["loss"] < first["loss"]
    plain = after_ten_epochs()
    moved = optax.tree.norm(optax.tree.sub(body(states[1]), plain))
    assert moved > 1e-3 * optax.tree.norm(plain)
    if name == "radius in steps":
        assert abs(first["sharpness"]) < 1e-6 < last["sharpness"]


@pytest.mark.slow
def test_a_device_loop_is_step_by_step(monkeypatch):
    monkeypatch.setattr("experiments.data.feed._STEPS_IN_LOOP", 3)
    config, dataset = tiny(epochs=3, batch_size=64)  # four steps per epoch
    one_by_one = train(*make(config, dataset), epochs=2)
    looped = train(*make(config, dataset, device_loop=True), epochs=2)
    assert_close(looped.params, one_by_one.params)
    assert_close(looped.sums, one_by_one.sums)


@pytest.mark.slow
def test_seeds_at_once_are_the_seeds_one_by_one():
    config, dataset = tiny("sgd", epochs=3)
    alone = []
    for seed in (3, 4):
        trainer, feed, key = make(config, dataset, seed=seed)
        alone.append(train(trainer, feed, key, epochs=2, seed=seed))
    steps, batch_size = feed.steps_per_epoch, feed.batch_size
    trainer = make_trainer(
        config, dataset, ONE, steps, device_loop=True, over_seeds=True
    )
    keys = jnp.stack([jax.random.key(3), jax.random.key(4)])
    data = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), dataset.train)
    size = len(dataset.train.labels)
    state = trainer.init(keys)
    for epoch in range(2):
        order = jnp.stack([shuffled_batches(k, epoch, size, batch_size) for k in keys])
        state = trainer.advance(state, EpochInMemory(data, order), keys, steps)
    for i in range(2):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], state.params)
        assert_close(own, alone[i].params)


@pytest.mark.by_default(loop=(False,))
@pytest.mark.parametrize("loop", [False, True])
def test_later_epochs_and_other_seeds_compile_nothing(loop, caplog):
    config, dataset = tiny("sgd", epochs=3)
    trainer, feed, key = make(config, dataset, device_loop=loop)
    other = load_dataset(config.replace(subset_seed=7), None)
    other_key = jax.device_put(jax.random.key(1), key.sharding)
    with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
        train(trainer, feed, key, epochs=2)
        assert "Compiling" in caplog.text
        caplog.clear()
        other_feed = make_feed(config, other, ONE, other_key, device_loop=loop)
        train(trainer, other_feed, other_key, epochs=3, seed=1)
        assert "Compiling" not in caplog.text


def test_the_state_is_donated():
    trainer, feed, key = make(*tiny("sgd"))
    before = trainer.init(jax.random.key(0))
    inputs, _ = next(feed.epoch(0))
    trainer.advance(before, inputs, key, 1)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))


@pytest.mark.slow
def test_batch_statistics_are_those_at_the_parameters():
    plain, dataset = tiny("sgd", augment="none", batch_size=400)
    sharp = plain.replace(method="focal_sam", rho=0.5)
    states = [train(*make(config, dataset)) for config in (plain, sharp)]
    assert_close(states[0].batch_stats, states[1].batch_stats, rtol=1e-5)


def test_evaluation_is_exact_for_any_batch_size():
    config, dataset = tiny("sgd")
    trainer, *rest = make(config, dataset)
    state = train(trainer, *rest, epochs=2)
    found = []
    for size in (500, 512, 64, 7):
        sums = trainer.evaluate(state, padded_batches(dataset.test, size))
        found.append(scores(sums, dataset.class_counts, config))
    assert 0 < found[0]["accuracy"] < 1
    for other in found[1:]:
        assert other["accuracy_per_class"] == found[0]["accuracy_per_class"]
        assert other["loss"] == pytest.approx(found[0]["loss"], rel=1e-5)
        assert other["ece"] == pytest.approx(found[0]["ece"], rel=1e-4)


def test_pixels_are_resized_before_they_are_normalised():
    config = get_config("cifar100_lt", "sgd")
    config = config.replace(input_size=48, interpolation="bicubic")
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    model = SimpleNamespace(apply=lambda params, stats, seen, train: (seen, stats))
    model.given = lambda frozen: model
    seen = eval_logits(config, model, ({}, {}), {}, jnp.asarray(images), 120.0, 60.0)
    wanted = (resize(jnp.float32(images), 48, "bicubic") - 120) / 60
    np.testing.assert_allclose(seen, wanted, atol=1e-5)


def test_fewer_images_than_devices_are_refused():
    assert epoch_sizes(10, 32, devices=4) == (8, 1)
    with pytest.raises(UserError, match="8 devices cannot share 5 training images"):
        epoch_sizes(5, 32, devices=8)
