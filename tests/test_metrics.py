"""Accuracies, calibration, statistics over seeds, and the tables made of them."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

pytest.importorskip("rich", reason="needs focal_sam_jax[experiments]")

from experiments.metrics import (
    SCORES,
    SHOTS,
    ShotThresholds,
    accuracies,
    expected_calibration_error,
    shot_of_class,
    shot_thresholds,
)
from experiments.reporting.statistics import paired_difference, summarise
from experiments.training.evaluate import add_batch, no_sums

THRESHOLDS = ShotThresholds(few_below=10, many_above=40)


def test_groups_at_their_thresholds():
    counts = np.array([41, 40, 10, 9])
    groups = shot_of_class(counts, THRESHOLDS).tolist()
    assert groups == ["many", "medium", "medium", "few"]


@st.composite
def answers(draw):
    """Draws labels, predictions, confidences and training counts of a test set."""
    num_classes = draw(st.integers(2, 8))
    size = draw(st.integers(1, 60))
    classes = st.lists(st.integers(0, num_classes - 1), min_size=size, max_size=size)
    of_class = st.lists(st.integers(1, 100), min_size=num_classes, max_size=num_classes)
    confidence = st.lists(st.floats(1 / num_classes, 1), min_size=size, max_size=size)
    return draw(classes), draw(classes), draw(confidence), draw(of_class)


def confusion_of(labels, answers, num_classes):
    confusion = np.zeros((num_classes, num_classes), np.int32)
    np.add.at(confusion, (labels, answers), 1)
    return confusion


@settings(deadline=None)
@given(answers())
def test_accuracies_are_those_of_counting_one_by_one(drawn):
    labels, given_answers, _, counts = drawn
    confusion = confusion_of(labels, given_answers, len(counts))
    found = accuracies(confusion, np.array(counts), THRESHOLDS)

    pairs = list(zip(labels, given_answers, strict=True))
    right = [label == answer for label, answer in pairs]
    assert math.isclose(found["accuracy"], sum(right) / len(right))
    of_class = {}
    for c in range(len(counts)):
        mine = [answer == c for label, answer in pairs if label == c]
        of_class[c] = sum(mine) / len(mine) if mine else None
    assert found["accuracy_per_class"] == pytest.approx(list(of_class.values()))
    members = {
        "many": [c for c, n in enumerate(counts) if n > 40],
        "medium": [c for c, n in enumerate(counts) if 10 <= n <= 40],
        "few": [c for c, n in enumerate(counts) if n < 10],
    }
    for shot, classes in members.items():
        known = [of_class[c] for c in classes if of_class[c] is not None]
        expected = sum(known) / len(known) if known else None
        assert found[f"accuracy_{shot}"] == pytest.approx(expected)
    json.dumps(found, allow_nan=False)


@settings(deadline=None)
@given(answers(), st.randoms(use_true_random=False))
def test_the_order_of_classes_does_not_matter(drawn, random):
    labels, given_answers, _, counts = drawn
    confusion = confusion_of(labels, given_answers, len(counts))
    order = list(range(len(counts)))
    random.shuffle(order)
    found = accuracies(confusion, np.array(counts), THRESHOLDS)
    other = accuracies(
        confusion[np.ix_(order, order)], np.array(counts)[order], THRESHOLDS
    )
    for score in SCORES:
        assert other[score] == pytest.approx(found[score])
    assert other["accuracy_per_class"] == [
        found["accuracy_per_class"][c] for c in order
    ]


def calibration_of(confidence, right, bins=15):
    """Sums over bins, which include their upper edge, example by example."""
    sums = np.zeros((3, bins))
    for c, r in zip(confidence, right, strict=True):
        sums[:, math.ceil(c * bins) - 1] += 1, c, r
    return sums


def brute_force_error(confidence, right, bins=15):
    """Guo et al., equation 3, with a loop over bins."""
    error = 0.0
    for m in range(bins):
        inside = [i for i, c in enumerate(confidence) if math.ceil(c * bins) == m + 1]
        if inside:
            accuracy = sum(right[i] for i in inside) / len(inside)
            mean = sum(confidence[i] for i in inside) / len(inside)
            error += len(inside) / len(confidence) * abs(accuracy - mean)
    return error


@settings(deadline=None)
@given(answers())
def test_calibration_error_is_that_of_the_paper(drawn):
    labels, given_answers, confidence, _ = drawn
    right = [
        label == answer for label, answer in zip(labels, given_answers, strict=True)
    ]
    found = expected_calibration_error(calibration_of(confidence, right))
    assert found == pytest.approx(brute_force_error(confidence, right), abs=1e-12)
    gap = abs(np.mean(right) - np.mean(confidence))
    assert gap - 1e-9 <= found <= 1


def test_a_batch_adds_what_a_loop_over_its_examples_adds():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(3, 0.5), 40).astype(np.float32)
    probabilities[:3] = [[0.6, 0.4, 0], [0, 1, 0], [0.2, 0, 0.8]]  # edges of bins
    labels, real = rng.integers(0, 3, 40), rng.random(40) < 0.7
    losses = np.where(real, rng.random(40, np.float32), np.nan)
    sums = no_sums(3)
    for _ in range(2):
        sums = add_batch(sums, *map(jnp.asarray, (probabilities, losses, labels, real)))
    answers, confidence = probabilities.argmax(1), probabilities.max(1)
    confusion = confusion_of(labels[real], answers[real], 3)
    np.testing.assert_array_equal(sums.confusion, 2 * confusion)
    right = (answers == labels)[real]
    calibration = calibration_of(confidence[real], right)
    np.testing.assert_allclose(sums.calibration, 2 * calibration, rtol=1e-5)
    np.testing.assert_allclose(sums.loss, 2 * losses[real].sum(), rtol=1e-5)


def test_calibration_error_of_known_answers():
    sure_and_right = calibration_of([1.0, 1.0], [True, True])
    assert expected_calibration_error(sure_and_right) == 0
    sure_and_wrong = calibration_of([1.0, 1.0], [False, False])
    assert expected_calibration_error(sure_and_wrong) == 1
    # Errors of two bins do not cancel.
    both = calibration_of([0.25, 0.75], [True, False])
    assert expected_calibration_error(both) == 0.75


@pytest.mark.parametrize(
    ("data", "factor", "sizes"),
    [
        ("cifar10", 10, (4, 3, 3)),
        ("cifar10", 20, (4, 3, 3)),
        ("cifar10", 50, (3, 5, 2)),
        ("cifar10", 100, (4, 3, 3)),
        ("cifar10", 200, (4, 3, 3)),
        ("cifar100", 10, (28, 42, 30)),
        ("cifar100", 20, (35, 35, 30)),
        ("cifar100", 50, (41, 41, 18)),
        ("cifar100", 100, (35, 35, 30)),
        ("cifar100", 200, (40, 34, 26)),
        ("digits", 30, (3, 4, 3)),
    ],
)
def test_groups_have_the_sizes_of_the_published_ones(data, factor, sizes):
    num_classes, largest = {
        "cifar10": (10, 5000),
        "cifar100": (100, 500),
        "digits": (10, 100),
    }[data]
    c = np.arange(num_classes)
    counts = np.floor(largest * (1.0 / factor) ** (c / (num_classes - 1)))
    groups = shot_of_class(counts, shot_thresholds(data, factor, "exp")).tolist()
    assert tuple(groups.count(shot) for shot in SHOTS) == sizes


@pytest.mark.parametrize(
    ("factor", "nearest"), [(1, 10), (30, 20), (32, 50), (500, 200)]
)
@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_a_factor_between_takes_the_thresholds_of_the_nearest(data, factor, nearest):
    found = shot_thresholds(data, factor, "step")
    assert found == shot_thresholds(data, nearest, "exp")


@pytest.mark.parametrize(
    "data", ["imagenet_lt", "inaturalist18", "places_lt", "folder:/data/mine"]
)
def test_large_data_and_the_users_own_share_their_thresholds(data):
    assert shot_thresholds(data, 256, "natural") == (20, 100)
    assert shot_thresholds(data, 10, "exp") == (20, 100)


def test_cifar_that_is_not_cut_has_many_shot_classes_alone():
    thresholds = shot_thresholds("cifar10", 200, "natural")
    assert set(shot_of_class(np.full(10, 5000), thresholds)) == {"many"}


def test_the_interval_is_that_of_a_paired_t_test():
    assert summarise([1.0, 2.0, 3.0]) == (2.0, 1.0)
    values, others = [0.93, 0.95, 0.90, 0.96], [0.91, 0.94, 0.91, 0.92]
    found = paired_difference(values, others)
    low, high = stats.ttest_rel(values, others).confidence_interval(0.95)
    assert math.isclose(found.mean - found.spread, low)
    assert math.isclose(found.mean + found.spread, high)
    assert paired_difference([0.5, 0.75], [0.25, 0.5]) == (0.25, 0.0)


def test_it_holds_the_true_mean_in_95_of_100():
    rng = np.random.default_rng(0)
    drawn = rng.normal(0.3, 1.0, (2000, 5))
    found = [paired_difference(row, np.zeros(5)) for row in drawn]
    held = np.mean([abs(d.mean - 0.3) <= d.spread for d in found])
    assert abs(held - 0.95) < 0.015


def test_a_single_seed_has_no_spread():
    assert math.isnan(summarise([1.0]).spread)
    assert math.isnan(paired_difference([2.0], [1.0]).spread)
