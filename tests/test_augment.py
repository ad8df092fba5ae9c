"""Random changes to images: what may change, and how often."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tyro", reason="needs focal_sam_jax[experiments]")


from experiments.configs.digits_lt import RECIPE
from experiments.data.images.augment import (
    augment,
    check_augmentation,
    random_affine,
    random_crop_flip,
)
from experiments.errors import UserError

DIGITS = RECIPE.base
SMALL = DIGITS.replace(data="cifar100", image_size=32, augment="crop_flip")
LARGE = DIGITS.replace(data="imagenet_lt", image_size=224, augment="resized_crop")

seeds = st.integers(0, 2**31 - 1)
examples = settings(max_examples=15, deadline=None)


def random_images(seed, shape=(6, 8, 10, 3)):
    pixels = np.random.default_rng(seed).integers(0, 256, shape)
    return jnp.asarray(pixels, jnp.float32)


def shape_of(channels):
    return (5, 8, 8, channels)


CHANGES = {
    name: jax.jit(change)
    for name, change in {
        "affine": random_affine,
        "crop_flip": random_crop_flip,
    }.items()
}
ONE, FIVE, GREY = (1, 8, 8, 3), (5, 8, 8, 3), (5, 8, 8, 1)


@pytest.mark.parametrize("shape", [ONE, FIVE, GREY])
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_keeps_shape_and_type_and_follows_its_key(name, shape):
    change, images = CHANGES[name], random_images(0, shape)
    keys = jax.random.split(jax.random.key(0), 20)
    changed = [change(key, images) for key in keys]
    assert changed[0].shape == images.shape and changed[0].dtype == images.dtype
    np.testing.assert_array_equal(changed[0], change(keys[0], images))
    distinct = {np.asarray(image).tobytes() for image in changed}
    assert len(distinct) > 5


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_the_same_for_many_seeds_at_once(name):
    images = random_images(1, FIVE)
    keys = jax.random.split(jax.random.key(1), 3)
    together = jax.jit(jax.vmap(CHANGES[name], in_axes=(0, None)))(keys, images)
    alone = jnp.stack([CHANGES[name](key, images) for key in keys])
    # If compiled differently, a value may be truncated to another whole number.
    assert np.mean(np.abs(together - alone) > 1e-3) < 0.01


def windows(image, padding):
    """Every crop of the padded image, and its mirror image, as bytes."""
    height, width, _ = image.shape
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    for row, column in itertools.product(range(2 * padding + 1), repeat=2):
        crop = padded[row : row + height, column : column + width]
        yield crop.tobytes()
        yield crop[:, ::-1].tobytes()


@given(seeds)
@examples
def test_a_crop_is_a_window_of_the_padded_image(seed):
    images = random_images(seed)
    changed = np.asarray(random_crop_flip(jax.random.key(seed), images, padding=2))
    for before, after in zip(np.asarray(images), changed, strict=True):
        assert after.tobytes() in set(windows(before, 2))


@given(seeds)
@examples
def test_without_padding_pixels_only_change_their_side(seed):
    images = random_images(seed)
    changed = np.asarray(random_crop_flip(jax.random.key(seed), images, padding=0))
    np.testing.assert_array_equal(np.sort(changed, axis=2), np.sort(images, axis=2))


def test_all_shifts_are_equally_likely_and_half_of_all_images_are_mirrored():
    image = random_images(0, (1, 8, 8, 1))
    count = 8000
    images = jnp.tile(image, (count, 1, 1, 1))
    changed = random_crop_flip(jax.random.key(0), images, padding=1)
    order = list(windows(np.asarray(image[0]), 1))
    seen = [order.index(one.tobytes()) for one in np.asarray(changed)]
    frequencies = np.bincount(seen, minlength=18) / count
    # Five standard deviations of a binomial share of 1/18.
    np.testing.assert_allclose(frequencies, 1 / 18, atol=0.013)


@pytest.mark.parametrize(
    ("config", "changes"),
    [
        (DIGITS, True),
        (DIGITS.replace(augment="none"), False),
        (SMALL, True),
        (SMALL.replace(image_size=8, augment="resized_crop"), True),
        (LARGE, False),  # streamed images are already cropped
    ],
)
def test_augment_does_what_it_says(config, changes):
    images = random_images(0, shape_of(1))
    changed = augment(config, jax.random.key(0), images)
    assert changed.shape == images.shape
    assert bool(jnp.any(changed != images)) == changes


@pytest.mark.parametrize(
    "config",
    [
        DIGITS,
        SMALL,
        LARGE,
        SMALL.replace(augment="affine"),
        LARGE.replace(augment="resized_crop_jitter"),
    ],
)
def test_sensible_augmentation_passes(config):
    check_augmentation(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            SMALL.replace(augment="resized_crop_jitter"),
            "choose one of none, affine, crop_flip, resized_crop",
        ),
        (LARGE.replace(augment="crop_flip"), "choose one of resized_crop, resized_cr"),
        (LARGE.replace(augment="none"), "224 pixels, which are streamed"),
        (DIGITS.replace(augment="crop_flip"), "digits into other characters"),
    ],
)
def test_senseless_augmentation_is_explained(config, message):
    with pytest.raises(UserError, match=message):
        check_augmentation(config)
