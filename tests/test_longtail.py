"""Tests of long-tailed cuts and held-out splits: published numbers, invariants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.data.longtail import (
    exponential_counts,
    hold_out,
    published_subset,
    step_counts,
    take_per_class,
)
from experiments.errors import UserError

CIFAR10_COUNTS = {
    10: [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500],
    50: [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100],
    100: [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],
    200: [5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25],
}

labels_of_a_set = st.lists(st.integers(0, 6), min_size=1, max_size=80).map(np.array)


@pytest.mark.parametrize("factor", CIFAR10_COUNTS)
def test_published_counts_of_cifar10(factor):
    assert exponential_counts(10, 5000, factor).tolist() == CIFAR10_COUNTS[factor]


@pytest.mark.parametrize(
    ("classes", "factor", "total"),
    [
        (10, 10, 20_431),
        (10, 20, 17_023),
        (10, 50, 13_996),
        (10, 100, 12_406),
        (10, 200, 11_203),
        (100, 10, 19_573),
        (100, 20, 15_907),
        (100, 50, 12_608),
        (100, 100, 10_847),
        (100, 200, 9_502),
    ],
)
def test_published_totals_of_cifar(classes, factor, total):
    counts = exponential_counts(classes, 50_000 // classes, factor)
    assert counts.sum() == total
    assert counts[-1] == 50_000 // classes // factor


@pytest.mark.parametrize("classes", [10, 100])
def test_published_totals_of_the_step(classes):
    largest = 50_000 // classes
    counts = step_counts(classes, largest, 100)
    assert set(counts[: classes // 2]) == {largest}
    assert set(counts[classes // 2 :]) == {largest // 100}
    assert counts.sum() == 25_250
    assert step_counts(classes, largest, 10).sum() == 27_500


def test_the_subset_leaves_the_global_generator_alone():
    before = np.random.get_state()[1].tolist()
    published_subset(np.zeros(50, int), np.array([5]), 0)
    assert np.random.get_state()[1].tolist() == before


@pytest.mark.parametrize("counts_of", [exponential_counts, step_counts])
@given(st.integers(2, 200), st.integers(1, 5000), st.floats(1, 1000))
@settings(max_examples=50, deadline=None)
def test_counts_fall_from_the_largest_by_the_imbalance_factor(
    counts_of, classes, largest, factor
):
    if factor > largest:
        with pytest.raises(UserError, match=f"at most {largest}"):
            counts_of(classes, largest, factor)
        return
    counts = counts_of(classes, largest, factor)
    assert counts.shape == (classes,) and counts[0] == largest
    assert np.all(np.diff(counts) <= 0) and counts[-1] >= 1
    assert abs(counts[-1] - largest / factor) <= 1
    assert counts.sum() <= classes * largest


def test_a_factor_as_large_as_the_largest_class_leaves_one_example():
    # 1 / 49 * 49 is less than 1 in floating point.
    assert exponential_counts(2, 49, 49).tolist() == [49, 1]
    assert step_counts(2, 49, 49).tolist() == [49, 1]


@given(labels_of_a_set, st.integers(0, 9), st.data())
@settings(max_examples=50, deadline=None)
def test_a_subset_has_distinct_members_of_each_class(labels, seed, data):
    available = np.bincount(labels)
    counts = np.array([data.draw(st.integers(0, int(n))) for n in available])
    rng = np.random.default_rng(seed)
    for chosen in (
        take_per_class(labels, counts, rng),
        published_subset(labels, counts, seed),
    ):
        assert len(set(chosen.tolist())) == len(chosen) == counts.sum()
        expected = np.repeat(np.arange(len(counts)), counts)
        assert labels[chosen].tolist() == expected.tolist()


@given(labels_of_a_set, st.floats(0.01, 0.99), st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_setting_aside_divides_a_set(labels, share, seed):
    stays, aside = hold_out(labels, share, np.random.default_rng(seed))
    assert sorted([*stays, *aside]) == list(range(len(labels)))
    for c in np.unique(labels):
        members, kept = np.sum(labels == c), np.sum(labels[stays] == c)
        assert kept >= 1
        if members > 1:
            assert kept < members
            assert abs((members - kept) - share * members) <= 1
    again = hold_out(labels, share, np.random.default_rng(seed))
    assert [part.tolist() for part in again] == [stays.tolist(), aside.tolist()]


def test_another_seed_sets_other_examples_aside():
    labels = np.zeros(100, int)
    first, second = (
        hold_out(labels, 0.3, np.random.default_rng(seed))[1] for seed in (0, 1)
    )
    assert len(first) == len(second) == 30 and set(first) != set(second)
