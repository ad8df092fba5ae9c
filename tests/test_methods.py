"""Tests of the methods with either optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

pytest.importorskip("tyro", reason="needs focal_sam_jax[experiments]")

import focal_sam_jax as fsam
from experiments.config import METHODS
from experiments.configs import get_config
from experiments.errors import UserError
from experiments.training.optimizer import make_optimizer

COUNTS = np.array([50, 10, 2])
PARAMS = {"w": jnp.linspace(-1, 1, 12).reshape(4, 3)}
X = jax.random.normal(jax.random.key(0), (8, 4))
Y = jnp.array([0, 0, 0, 0, 1, 1, 2, 2])


def loss_fn(params):
    return fsam.losses.cross_entropy(X @ params["w"], Y)


def steps(tx, number=5):
    params, state = PARAMS, tx.init(PARAMS)
    for _ in range(number):
        here = fsam.evaluate(loss_fn, params, labels=Y, num_classes=3)
        updates, state = tx.update(here.grads, state, params, evaluation=here)
        params = optax.apply_updates(params, updates)
    return params["w"]


def config(method="sgd", **changes):
    config = get_config("vit_digits_lt", method)
    return config.replace(warmup=0, epochs=10, **changes)


def test_adamw_is_that_of_optax():
    ours = make_optimizer(config(learning_rate=0.1), COUNTS, steps_per_epoch=2)
    schedule = optax.cosine_decay_schedule(0.1, 20)
    theirs = optax.adamw(schedule, weight_decay=0.05)
    np.testing.assert_allclose(
        steps(ours), steps(optax.with_extra_args_support(theirs)), rtol=1e-5
    )


FOCAL = {"rho": 0.3, "gamma": 3.0, "lam": 0.4}
TAIL = {"rho": 0.3, "tail_threshold": 5}
EXACT = fsam.focal_sam(COUNTS, **FOCAL)
REUSED = fsam.reuse_ascent(fsam.focal_weights(COUNTS, 3.0), rho=0.3, lam=0.4)
WITH_OPTIONS = {
    "sam": ({"rho": 0.3}, fsam.sam(rho=0.3)),
    "imbsam": (TAIL, fsam.imbsam(COUNTS, **TAIL)),
    "cc_sam": ({"rho": 0.3, "alpha": 0.3}, fsam.cc_sam(COUNTS, rho=0.3, alpha=0.3)),
    "sse_sam": (
        TAIL | {"head_rho": 0.2, "switch_epoch": 1},
        fsam.sse_sam(
            COUNTS, head_rho=0.2, tail_rho=0.3, tail_threshold=5, switch_step=2
        ),
    ),
    "focal_sam": (FOCAL, EXACT),
    "focal_sam, reuse_ascent": (FOCAL | {"approximation": "reuse_ascent"}, REUSED),
    "focal_sam, looksam": (
        FOCAL | {"approximation": "looksam", "every": 2},
        fsam.looksam(EXACT, every=2),
    ),
}


@pytest.mark.parametrize("name", WITH_OPTIONS)
def test_every_option_reaches_the_method_and_sgd(name):
    changes, method = WITH_OPTIONS[name]
    sgd = {"optimizer": "sgd", "momentum": 0.8, "weight_decay": 0.03}
    ours = config(name.split(",")[0], learning_rate=0.1, **sgd, **changes)
    ours = make_optimizer(ours, COUNTS, steps_per_epoch=2)
    schedule = optax.cosine_decay_schedule(0.1, 20)
    decay, sgd = optax.add_decayed_weights(0.03), optax.sgd(schedule, momentum=0.8)
    theirs = optax.chain(method, decay, sgd)
    np.testing.assert_allclose(steps(ours, 3), steps(theirs, 3), rtol=1e-5)


@pytest.mark.by_default(optimizer=("sgd",), method=("focal_sam",))
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_changes_what_the_optimizer_gets(method, optimizer):
    def weights(method, **changes):
        changes |= {"optimizer": optimizer, "learning_rate": 0.1}
        return steps(make_optimizer(config(method, **changes), COUNTS, 2))

    plain = weights("sgd")
    assert np.all(np.isfinite(weights(method)))
    if method != "sgd":
        assert not np.allclose(weights(method, rho=0.5), plain, rtol=1e-3)
        # A zero radius changes nothing.
        without = weights(method, rho=0.0, head_rho=0.0)
        np.testing.assert_allclose(without, plain, rtol=1e-4)


def weights(method, **changes):
    changes |= {"learning_rate": 0.1, "rho": 0.5, "tail_threshold": 20}
    return steps(make_optimizer(config(method, **changes), COUNTS, 2))


@pytest.mark.by_default(method=("focal_sam",))
@pytest.mark.parametrize("approximation", ["reuse_ascent", "looksam"])
@pytest.mark.parametrize("method", ["sam", "imbsam", "cc_sam", "focal_sam"])
def test_an_approximation_is_near_the_method_and_not_the_same(method, approximation):
    if (method, approximation) == ("cc_sam", "reuse_ascent"):
        pytest.skip("every class has an ascent of its own")
    exact, plain = weights(method), weights("sgd")
    got = weights(method, approximation=approximation, every=2)
    assert not np.allclose(got, exact, rtol=1e-3)
    assert not np.allclose(got, plain, rtol=1e-3)


def test_looksam_in_every_step_is_the_method():
    got = weights("focal_sam", approximation="looksam", every=1)
    np.testing.assert_allclose(got, weights("focal_sam"), rtol=1e-5)


@pytest.mark.slow
def test_looksam_keeps_to_the_schedule_of_the_radius():
    def of(*values):
        # Epochs have two steps; exact steps, 0 and 4, are in the first and third epoch.
        return weights(
            "sam",
            approximation="looksam",
            every=4,
            rho_schedule="step",
            rho_milestones=(1, 2),
            rho_values=values,
        )

    np.testing.assert_array_equal(of(0.1, 0.2, 0.3), of(0.1, 9.0, 0.3))
    assert not np.allclose(of(0.1, 0.2, 0.3), of(0.1, 0.2, 9.0), rtol=1e-3)


@pytest.mark.parametrize(
    ("method", "approximation"),
    [("sgd", "reuse_ascent"), ("sgd", "looksam"), ("cc_sam", "reuse_ascent")],
)
def test_an_approximation_without_meaning_is_refused(method, approximation):
    changes = config(method, approximation=approximation)
    with pytest.raises(UserError, match=f"{approximation} has no .* --method {method}"):
        make_optimizer(changes, COUNTS, 2)
