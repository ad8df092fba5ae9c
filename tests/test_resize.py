"""Resizing on the device, against Pillow."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tyro", reason="needs focal_sam_jax[experiments]")

from experiments.configs import get_config
from experiments.data.images import host_crop
from experiments.data.images.resize import (
    crop_and_resize,
    eval_view,
    random_box,
    random_resized_crop,
    resize,
)
from experiments.errors import UserError

Image = pytest.importorskip("PIL.Image")


def pixels(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0, 255, shape).astype(np.float32)


def pillow(image, box, size, interpolation):
    """Crop and resize, channel by channel in floating point."""
    kind = Image.Resampling[interpolation.upper()]
    channels = [
        Image.fromarray(channel).crop(box).resize((size, size), kind)
        for channel in np.moveaxis(image, -1, 0)
    ]
    stacked = np.stack([np.asarray(channel) for channel in channels], axis=-1)
    return stacked.clip(0, 255)  # as Pillow does with integers


each_interpolation = pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])


@each_interpolation
@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(32, 32, 224), (8, 8, 32), (100, 100, 32), (40, 70, 30), (70, 40, 50), (9, 31, 9)],
)
def test_resizing_is_pillows(height, width, size, interpolation):
    images = pixels(2, height, width, 3)
    ours = jax.jit(resize, static_argnums=(1, 2))(images, size, interpolation)
    assert ours.dtype == np.float32
    for image, result in zip(images, ours, strict=True):
        wanted = pillow(image, (0, 0, width, height), size, interpolation)
        np.testing.assert_allclose(result, wanted, atol=2e-3)


def test_the_right_size_is_left_alone():
    images = jnp.asarray(pixels(2, 8, 8, 1))
    assert resize(images, 8, "bilinear") is images


def test_narrow_images_stay_narrow():
    images = pixels(2, 16, 16, 3)
    narrow = resize(jnp.asarray(images, jnp.bfloat16), 32, "bilinear")
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        narrow.astype(jnp.float32), resize(images, 32, "bilinear"), atol=4, rtol=0.02
    )


compiled_crop = jax.jit(crop_and_resize, static_argnums=(3, 4))


@pytest.mark.by_default(interpolation=("bicubic",))
@each_interpolation
@given(data=st.data(), size=st.sampled_from([5, 20]), mirrored=st.booleans())
@settings(deadline=None, max_examples=30)
def test_a_part_is_cut_before_it_is_resized(data, size, mirrored, interpolation):
    height, width = 13, 17
    tall = data.draw(st.integers(1, height))
    wide = data.draw(st.integers(1, width))
    top = data.draw(st.integers(0, height - tall))
    left = data.draw(st.integers(0, width - wide))
    images = pixels(1, height, width, 2)
    box = jnp.array([[top, left, tall, wide]])
    mirror = jnp.array([mirrored])
    ours = compiled_crop(images, box, mirror, size, interpolation)[0]
    part = (left, top, left + wide, top + tall)
    wanted = pillow(images[0], part, size, interpolation)
    np.testing.assert_allclose(ours[:, ::-1] if mirrored else ours, wanted, atol=2e-3)


def boxes(height, width, draws):
    keys = jax.random.split(jax.random.key(0), draws)
    draw = jax.jit(jax.vmap(lambda key: random_box(key, height, width)))
    return np.asarray(draw(keys))


def test_parts_are_drawn_as_on_the_host():
    height, width, draws = 60, 80, 4000
    top, left, tall, wide = boxes(height, width, draws).T
    assert (top >= 0).all() and (top + tall <= height).all()
    assert (left >= 0).all() and (left + wide <= width).all()
    rng = np.random.default_rng(0)
    host = [host_crop.random_box(width, height, rng) for _ in range(draws)]
    first_column, first_row, column, row = np.array(host).T
    host_tall, host_wide = row - first_row, column - first_column
    # Sides are rounded to whole pixels, so both can exceed their bounds a little.
    share, ratio = tall * wide / (height * width), wide / tall
    assert 0.07 < share.min() < 0.1 < 0.9 < share.max() <= 1
    assert 0.7 < ratio.min() < 0.8 < 1.25 < ratio.max() < 1.42
    pairs = [
        (tall, host_tall),
        (wide, host_wide),
        (tall * wide, host_tall * host_wide),
        (top, first_row),
        (left, first_column),
        ((tall * wide) ** 2, (host_tall * host_wide) ** 2),
    ]
    for ours, theirs in pairs:
        error = np.sqrt((ours.var() + theirs.var()) / draws)
        assert abs(ours.mean() - theirs.mean()) < 4 * error


@pytest.mark.by_default(height=(2,))
@pytest.mark.parametrize(
    ("height", "width", "fallback"),
    [
        (2, 400, (0, 198, 2, 3)),
        (400, 2, (198, 0, 3, 2)),
        (3, 400, (0, 198, 3, 4)),
    ],
)
def test_what_never_fits_is_the_middle(height, width, fallback):
    left, top, right, bottom = host_crop.random_box(
        width, height, np.random.default_rng(0)
    )
    assert fallback == (top, left, bottom - top, right - left)
    np.testing.assert_array_equal(
        boxes(height, width, 50), np.broadcast_to(fallback, (50, 4))
    )


def test_every_image_has_its_own_part_and_a_key_its_own_parts():
    image = pixels(1, 32, 32, 3)
    images = jnp.asarray(np.repeat(image, 4, axis=0))
    crop = jax.jit(
        partial(random_resized_crop, interpolation="bilinear"), static_argnums=2
    )
    once = np.asarray(crop(jax.random.key(0), images, 48))
    assert once.shape == (4, 48, 48, 3)
    assert all(not np.allclose(once[0], other) for other in once[1:])
    np.testing.assert_array_equal(once, crop(jax.random.key(0), images, 48))
    assert not np.allclose(once, crop(jax.random.key(1), images, 48))


@pytest.mark.slow
def test_about_half_are_mirrored():
    ramp = np.broadcast_to(np.arange(32.0)[None, None, :, None], (400, 32, 32, 1))
    crops = np.asarray(
        random_resized_crop(jax.random.key(0), jnp.asarray(ramp), 8, "bilinear")
    )
    share = (crops[:, 0, 0, 0] > crops[:, 0, -1, 0]).mean()
    assert 0.4 < share < 0.6


def config(**changes):
    return get_config("cifar100_lt", "sgd").replace(**changes)


def test_images_are_evaluated_as_they_are():
    whole = jnp.asarray(pixels(3, 32, 32, 3))
    np.testing.assert_array_equal(eval_view(config(), whole), whole)


def test_images_in_memory_are_resized_with_the_margin_asked_for():
    small = jnp.asarray(pixels(3, 32, 32, 3))
    seen = eval_view(config(input_size=48), small)
    np.testing.assert_array_equal(seen, resize(small, 48, "bilinear"))
    seen = eval_view(config(input_size=48, test_resize=56), small)
    np.testing.assert_array_equal(seen, resize(small, 56, "bilinear")[:, 4:52, 4:52])


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="--test-resize must be at least the 48 pixels"):
        config(input_size=48, test_resize=40)
    with pytest.raises(UserError, match="--input-size must be at least 8, got 4"):
        config(input_size=4)
