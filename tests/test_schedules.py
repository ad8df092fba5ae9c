"""Learning rate and radius over a run."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tyro", reason="needs focal_sam_jax[experiments]")

from experiments.configs import get_config
from experiments.errors import UserError
from experiments.training.schedules import at, learning_rate, radius

SGD = get_config("digits_lt", "sgd")
SAM = get_config("digits_lt", "sam")


def rates(config, steps_per_epoch):
    schedule = learning_rate(config, steps_per_epoch)
    return [float(schedule(t)) for t in range(config.epochs * steps_per_epoch)]


def test_cosine_falls_from_the_rate_to_zero():
    config = SGD.replace(epochs=10, learning_rate=0.4)
    found = rates(config, 7)
    wanted = [0.2 * (1 + math.cos(math.pi * t / 70)) for t in range(70)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


@given(
    epochs=st.integers(2, 12),
    steps=st.integers(1, 9),
    data=st.data(),
    schedule=st.sampled_from(["cosine", "multistep"]),
)
def test_warmup_rises_in_equal_steps_to_the_rate(epochs, steps, data, schedule):
    warmup = data.draw(st.integers(1, epochs - 1))
    config = SGD.replace(epochs=epochs, warmup=warmup, schedule=schedule)
    config = config.replace(learning_rate=0.5, milestones=(epochs,))
    found = rates(config, steps)
    rising = warmup * steps
    wanted = 0.5 * (np.arange(rising) + 1) / rising
    np.testing.assert_allclose(found[:rising], wanted, rtol=1e-5)
    assert max(found) <= 0.5 * (1 + 1e-6)


def test_the_published_fall_back_of_the_cifar_scripts():
    config = SGD.replace(
        schedule="multistep",
        epochs=200,
        warmup=5,
        milestones=(160, 180),
        decay=0.01,
        learning_rate=0.1,
    )
    schedule = learning_rate(config, 3)
    ends_of_epochs = [float(schedule(3 * epoch - 1)) for epoch in range(1, 201)]
    wanted = [0.1 * min(1, e / 5) for e in range(1, 161)] + 20 * [1e-3] + 20 * [1e-5]
    np.testing.assert_allclose(ends_of_epochs, wanted, rtol=1e-5)


def test_a_constant_radius_is_a_number():
    assert radius(SAM.replace(rho=0.3), 5) == 0.3


def test_a_linear_radius_changes_every_epoch():
    config = SAM.replace(rho_schedule="linear", rho_start=0.05, rho=0.8, epochs=4)
    found = [float(radius(config, 3)(t)) for t in range(12)]
    wanted = np.repeat(np.linspace(0.05, 0.8, 4), 3)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def test_the_published_steps_of_the_radius():
    """0.05 up to epoch 5, 0.1 to 160, 0.5 to 180, then 0.6, with epochs from 1."""
    config = get_config("cifar10_lt", "focal_sam").replace(rho_schedule="step")
    schedule = radius(config, 2)
    found = [
        float(schedule(2 * (epoch - 1))) for epoch in (1, 5, 6, 160, 161, 180, 181)
    ]
    np.testing.assert_allclose(found, [0.05, 0.05, 0.1, 0.1, 0.5, 0.5, 0.6], rtol=1e-6)


def test_what_is_recorded_is_what_the_schedules_say():
    config = SAM.replace(rho_schedule="linear", rho_start=0.1, rho=0.3, epochs=3)
    recorded = at(config, 5, 7)
    assert recorded["rho"] == pytest.approx(0.2)
    assert recorded["learning_rate"] == pytest.approx(rates(config, 5)[7])
    assert "rho" not in at(SGD, 5, 7)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rho_schedule": "step", "rho_values": (0.1,)}, "--rho-values must be 2"),
        ({"rho_milestones": (5, 3)}, "--rho-milestones must be increasing"),
        ({"milestones": (0, 3)}, "--milestones must be increasing"),
        ({"drw_start": -1}, "--drw-start must be at least 0, got -1"),
        ({"ema": 1.0}, "--ema must be less than 1"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        SAM.replace(**changes)


def test_a_warmup_as_long_as_the_run_is_refused():
    with pytest.raises(UserError, match="--warmup must be less than --epochs 3, got 3"):
        learning_rate(SGD.replace(epochs=3, warmup=3), 5)
