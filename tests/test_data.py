"""Long-tailed subsets, batches and augmentation: what is promised of any of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("sklearn", reason="needs focal_sam_jax[experiments]")

from experiments.data import digits
from experiments.data.augment import random_affine
from experiments.data.batches import padded_batches, shuffled_batches
from experiments.data.dataset import Split
from experiments.data.longtail import exponential_counts, take_per_class
from experiments.errors import UserError


def rows(split):
    """Every image as bytes, to compare sets of images."""
    return {image.tobytes() for image in split.images}


def test_published_counts_of_cifar():
    counts = exponential_counts(10, 5000, 100)
    assert counts.tolist() == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


def test_digits_have_the_documented_sizes():
    data = digits.load(subset_seed=0, imbalance_factor=30)
    assert data.class_counts.tolist() == [100, 68, 46, 32, 22, 15, 10, 7, 4, 3]
    assert np.bincount(data.train.labels).tolist() == data.class_counts.tolist()
    assert np.bincount(data.validation.labels).tolist() == [24] * 10
    assert np.bincount(data.test.labels).tolist() == [50] * 10
    assert data.train.images.shape == (307, 8, 8, 1)


@pytest.mark.parametrize("seed", [0, 1, 1000])
def test_no_image_is_in_two_parts(seed):
    data = digits.load(subset_seed=seed, imbalance_factor=1)
    train, validation, test = map(rows, (data.train, data.validation, data.test))
    assert not train & validation and not train & test and not validation & test


def test_test_images_do_not_depend_on_the_seed():
    first, second = (digits.load(seed, 30) for seed in (0, 1))
    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert first.class_names != second.class_names
    assert rows(first.train) != rows(second.train)


def test_class_names_are_the_digits():
    data = digits.load(subset_seed=3, imbalance_factor=30)
    by_name = dict(zip(data.class_names, range(10), strict=True))
    zeros = data.test.images[data.test.labels == by_name["0"]].mean(axis=0)[..., 0]
    ones = data.test.images[data.test.labels == by_name["1"]].mean(axis=0)[..., 0]
    assert zeros[3:5, 3:5].mean() < 0 < ones[3:5, 3:5].mean()  # a zero has a hole


def test_an_empty_tail_is_explained():
    with pytest.raises(UserError, match="at most 100"):
        digits.load(subset_seed=0, imbalance_factor=101)


@given(st.integers(2, 200), st.integers(1, 5000), st.floats(1, 1000))
@settings(max_examples=50, deadline=None)
def test_counts_fall_from_the_largest_to_the_imbalance_factor(classes, largest, factor):
    if largest / factor < 1:
        return
    try:
        counts = exponential_counts(classes, largest, factor)
    except UserError:
        assert largest / factor < 1 + 1e-9  # the rounding of a tail of exactly one
        return
    assert counts[0] == largest and np.all(np.diff(counts) <= 0)
    assert abs(counts[-1] - largest / factor) <= 1


def test_examples_of_a_class_are_distinct_members_of_it():
    labels = np.array([0, 1, 0, 1, 1, 0, 2])
    taken = take_per_class(labels, np.array([2, 1, 1]), np.random.default_rng(0))
    assert labels[taken].tolist() == [0, 0, 1, 2]
    assert len(set(taken)) == 4


@pytest.mark.parametrize(("size", "batch_size"), [(10, 3), (9, 3), (2, 5), (1, 1)])
def test_an_epoch_shows_no_example_twice(size, batch_size):
    order = shuffled_batches(jax.random.key(0), 0, size, batch_size)
    assert order.shape == (max(size // batch_size, 1), min(batch_size, size))
    assert len(set(order.ravel().tolist())) == order.size


def test_every_epoch_has_an_order_of_its_own_that_repeats():
    key = jax.random.key(0)
    first, again, next_ = (shuffled_batches(key, e, 100, 10) for e in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != next_)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10])
def test_padded_batches_hold_everything_once(batch_size):
    images = np.arange(7, dtype=np.float32).reshape(7, 1, 1, 1)
    batches = padded_batches(Split(images, np.arange(7, dtype=np.int32)), batch_size)
    assert batches.real.sum() == 7
    assert batches.labels[batches.real].tolist() == list(range(7))
    assert batches.images[batches.real].ravel().tolist() == list(range(7))


def test_augmentation_moves_a_little_and_each_image_differently():
    image = digits.load(0, 30).train.images[:1]
    images = jnp.tile(image, (64, 1, 1, 1))
    moved = random_affine(jax.random.key(0), images)
    assert moved.shape == images.shape and moved.dtype == images.dtype
    distances = jnp.sqrt(jnp.mean((moved - images) ** 2, axis=(1, 2, 3)))
    assert 0.05 < distances.min() and distances.max() < 1.0  # of a unit deviation
    assert len(np.unique(np.asarray(distances).round(5))) > 60


def test_augmentation_leaves_a_constant_image_alone():
    images = jnp.full((4, 8, 8, 1), 2.5)
    np.testing.assert_allclose(random_affine(jax.random.key(1), images), 2.5, rtol=1e-6)
