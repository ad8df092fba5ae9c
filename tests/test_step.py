"""Tests of a training step: state, skipped steps, averages."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tracing import counted

pytest.importorskip("flax", reason="needs focal_sam_jax[experiments]")

import focal_sam_jax as fsam
from experiments.config import Config
from experiments.configs import get_config
from experiments.models import Model
from experiments.training.criterion import make_loss, probabilities
from experiments.training.step import epoch_means, init_state, make_train_step

COUNTS = np.array([20, 5])


def linear():
    """A linear network whose one running statistic is the mean of the last batch."""

    def init(key):
        return {"w": jax.random.normal(key, (3, 2))}, {"mean": jnp.zeros(3)}

    def apply(params, batch_stats, images, *, train):
        flat = images.reshape(len(images), 3)
        if train:
            batch_stats = {"mean": flat.mean(0)}
        return flat @ params["w"], batch_stats

    return Model(init, apply)


def cross_entropy(logits, labels, epoch):
    del epoch
    return fsam.losses.cross_entropy(logits, labels)


LABELS = jnp.array([0, 0, 0, 1])


def batch(value=1.0):
    """Frozen weights, images and labels."""
    images = jax.random.normal(jax.random.key(1), (4, 1, 1, 3)) * value
    return {}, images, LABELS


def make(tx=None, loss=cross_entropy, ema=0.0, max_skipped=3, steps_per_epoch=5):
    tx = tx or optax.with_extra_args_support(optax.sgd(0.1, momentum=0.9))
    config = Config(ema=ema, max_skipped=max_skipped)
    step = make_train_step(config, linear(), tx, loss, 2, steps_per_epoch)
    return init_state(jax.random.key(0), linear(), tx, ema=ema), jax.jit(step)


def assert_same(here, there):
    jax.tree.map(np.testing.assert_array_equal, here, there)


METHODS = {
    "sgd": optax.with_extra_args_support(optax.sgd(0.1, momentum=0.9)),
    "focal_sam": optax.chain(
        fsam.focal_sam(COUNTS, rho=0.1), optax.sgd(0.1, momentum=0.9)
    ),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_but_its_count(method, value):
    state, step = make(METHODS[method])
    state = step(state, *batch())
    after = step(state, *batch(value))
    for part in ("params", "batch_stats", "opt_state", "sums"):
        assert_same(getattr(after, part), getattr(state, part))
    assert after.step == state.step + 1
    assert tuple(after.skipped) == (1, 1, -1)
    good = step(after, *batch())
    assert tuple(good.skipped) == (1, 0, -1)
    assert_same(good.params, step(state, *batch()).params)


def test_an_overflow_at_the_perturbed_weights_alone_is_skipped():
    """The plain loss and gradient are finite; the second gradient is not."""

    def loss(logits, labels, epoch):
        del epoch
        steep = jnp.where(jnp.abs(logits).max() > 100, jnp.nan, 0.0)
        return fsam.losses.cross_entropy(logits, labels) + steep

    tx = optax.chain(fsam.sam(rho=1e3), optax.sgd(0.1))
    state, step = make(tx, loss)
    after = step(state, *batch())
    assert after.skipped.total == 1
    assert_same(after.params, state.params)


def test_the_step_at_which_a_long_row_began_is_kept():
    state, step = make(max_skipped=3)
    for value in [1, np.nan, 1, np.nan, np.nan, np.nan, 1, np.nan, np.nan, np.nan]:
        state = step(state, *batch(value))
    # Steps count from 0; the first three consecutive skips began with step 3.
    assert tuple(state.skipped) == (7, 3, 3)


def test_sums_are_of_the_good_steps_of_this_epoch():
    state, step = make(steps_per_epoch=3)
    losses = []
    for t, value in enumerate([1, 2, 3, 1, np.nan, 3]):
        logits = batch(value)[1].reshape(4, 3) @ state.params["w"]
        losses.append(float(cross_entropy(logits, LABELS, 0).mean()))
        state = step(state, *batch(value))
        if t == 2:
            means = epoch_means(state.sums)
            assert means["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    means = epoch_means(state.sums)
    assert means["loss"] == pytest.approx(np.mean([losses[3], losses[5]]), rel=1e-5)
    assert 0 <= means["train_accuracy"] <= 1
    assert set(means) == {"loss", "train_accuracy"}


def test_an_epoch_without_a_good_step_has_no_means():
    state, step = make()
    assert epoch_means(step(state, *batch(np.nan)).sums)["loss"] is None


def test_the_average_is_exponential_and_what_is_evaluated():
    state, step = make(ema=0.75)
    plain, plain_step = make()
    weights, means = [], []
    for steps in range(1, 5):
        state, plain = step(state, *batch()), plain_step(plain, *batch())
        weights.append(state.params["w"])
        means.append(state.batch_stats["mean"])
        # All steps so far count; the initial values have no weight.
        shares = 0.75 ** np.arange(steps)[::-1]
        params, batch_stats = state.evaluated
        for found, all_so_far in ((params["w"], weights), (batch_stats["mean"], means)):
            wanted = np.average(all_so_far, axis=0, weights=shares)
            np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert_same(state.params, plain.params)
    assert_same(plain.evaluated[0], plain.params)


def test_the_average_has_no_share_of_the_initial_weights_after_a_skipped_step():
    state, step = make(ema=0.75)
    after = step(step(state, *batch(np.nan)), *batch())
    assert_same(after.evaluated, (after.params, after.batch_stats))


def test_nothing_in_a_new_state_is_there_twice():
    state, step = make(ema=0.9)
    buffers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
    assert len(set(buffers)) == len(buffers)
    jax.jit(step, donate_argnums=0)(state, *batch())


def test_cosines_become_probabilities_as_ldam_trains_them():
    cosines = jnp.array([[0.9, 0.8, -0.5], [0.0, 0.1, 0.2]])
    ldam, plain = (Config(loss=loss) for loss in ("ldam", "la"))
    for config, scale in ((ldam, 30), (plain, 1)):
        wanted = jax.nn.softmax(scale * cosines)
        np.testing.assert_allclose(probabilities(config, cosines), wanted)
    # Without a margin the loss is the cross-entropy of these probabilities.
    of_labels = probabilities(ldam, cosines)[jnp.arange(2), jnp.array([1, 2])]
    losses = fsam.losses.ldam(cosines, [1, 2], [9, 9, 9], max_margin=0.0)
    np.testing.assert_allclose(losses, -jnp.log(of_labels), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("ce", fsam.losses.cross_entropy),
        ("focal", fsam.losses.focal),
        ("ldam", partial(fsam.losses.ldam, class_counts=COUNTS, scale=30.0)),
        ("vs", partial(fsam.losses.vector_scaling, class_counts=COUNTS)),
        ("la", partial(fsam.losses.logit_adjusted, class_counts=COUNTS)),
    ],
)
def test_the_name_of_a_loss_is_that_loss(name, wanted):
    logits = jnp.array([[0.9, -0.8], [0.1, 0.7], [-0.5, 0.2], [0.3, 0.4]])
    found = make_loss(Config(loss=name), COUNTS)(logits, LABELS, 0)
    np.testing.assert_allclose(found, wanted(logits, LABELS), rtol=1e-6)


def test_deferred_weights_begin_in_their_epoch_and_compile_nothing():
    config = get_config("digits_lt", "sgd").replace(loss="ce", drw_start=2)
    traced = counted(make_loss(config, COUNTS))
    loss = jax.jit(traced)
    logits = jax.random.normal(jax.random.key(0), (4, 2))
    labels = jnp.array([0, 1, 1, 0])
    plain = fsam.losses.cross_entropy(logits, labels)
    np.testing.assert_allclose(loss(logits, labels, 1), plain, rtol=1e-6)
    weights = fsam.losses.class_balanced_weights(COUNTS)
    np.testing.assert_allclose(
        loss(logits, labels, 2), weights[labels] * plain, rtol=1e-6
    )
    assert traced.traces == 1
