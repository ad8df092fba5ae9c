"""Tests of batches, and of small affine changes to digits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs focal_sam_jax[experiments]")

from experiments.data.batches import padded_batches, shuffled_batches
from experiments.data.dataset import Split
from experiments.data.images.augment import random_affine
from experiments.data.sources import digits


@pytest.mark.parametrize(("size", "batch_size"), [(10, 3), (9, 3), (5, 5), (1, 1)])
def test_an_epoch_shows_no_example_twice(size, batch_size):
    order = shuffled_batches(jax.random.key(0), 0, size, batch_size)
    assert order.shape == (size // batch_size, batch_size)
    assert len(set(order.ravel().tolist())) == order.size


def test_every_epoch_has_an_order_of_its_own_that_repeats():
    key = jax.random.key(0)
    first, again, next_ = (shuffled_batches(key, e, 100, 10) for e in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != next_)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10])
def test_padded_batches_hold_everything_once(batch_size):
    images = np.arange(7, dtype=np.uint8).reshape(7, 1, 1, 1)
    split = Split(images, np.arange(7, dtype=np.int32))
    seen_images, seen_labels = [], []
    for images, labels, real in padded_batches(split, batch_size):
        assert len(images) == len(labels) == len(real) == batch_size
        seen_images += images[real].ravel().tolist()
        seen_labels += labels[real].tolist()
    assert seen_images == seen_labels == list(range(7))


def test_affine_changes_move_a_little_and_each_image_differently():
    data = digits.load(0, 30)
    image = (data.train.images[:1] - data.mean) / data.std
    images = jnp.tile(image, (64, 1, 1, 1))
    moved = random_affine(jax.random.key(0), images)
    assert moved.shape == images.shape and moved.dtype == images.dtype
    distances = jnp.sqrt(jnp.mean((moved - images) ** 2, axis=(1, 2, 3)))
    assert 0.05 < distances.min() and distances.max() < 1.0  # standard deviations
    assert len(np.unique(np.asarray(distances).round(5))) > 60


def test_affine_changes_leave_a_constant_image_alone():
    images = jnp.full((4, 8, 8, 1), 2.5)
    np.testing.assert_allclose(random_affine(jax.random.key(1), images), 2.5, rtol=1e-6)
