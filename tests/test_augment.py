"""Random changes to images: what may change, and Pillow's arithmetic compiled."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tyro", reason="needs focal_sam_jax[experiments]")

from experiments.configs.digits_lt import RECIPE
from experiments.data.augment import (
    augment,
    check_augmentation,
    cutout,
    random_affine,
    random_crop_flip,
)
from experiments.data.mixing import mixup
from experiments.data.randaugment import OPERATIONS, apply_operation, randaugment
from experiments.errors import UserError

DIGITS = RECIPE.base
SMALL = DIGITS.replace(data="cifar100", image_size=32, augment="crop_flip")
LARGE = DIGITS.replace(data="imagenet_lt", image_size=224, augment="resized_crop")
FILL = jnp.array([-1.0, -2.0, -3.0])  # no pixel has such values

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
        "cutout": lambda key, images: cutout(
            key, images, 4, jnp.full(images.shape[-1], -1)
        ),
        "all_at_once": lambda key, images: augment(
            SMALL.replace(randaugment=9, cutout=4), key, images, FILL
        ),
        "mixup": lambda key, images: mixup(key, images, jnp.arange(len(images)), 1.0)[
            0
        ],
    }.items()
}
ONE, FIVE, GREY = (1, 8, 8, 3), (5, 8, 8, 3), (5, 8, 8, 1)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        (name, shape)
        for name, shape in itertools.product(CHANGES, (ONE, FIVE, GREY))
        if (name, shape) != ("all_at_once", GREY)  # RandAugment is for colour images
    ],
)
def test_a_change_keeps_shape_and_type_and_follows_its_key(name, shape):
    change, images = CHANGES[name], random_images(0, shape)
    keys = jax.random.split(jax.random.key(0), 20)
    changed = [change(key, images) for key in keys]
    assert changed[0].shape == images.shape and changed[0].dtype == images.dtype
    np.testing.assert_array_equal(changed[0], change(keys[0], images))
    distinct = {np.asarray(image).tobytes() for image in changed}
    if (name, shape) == ("mixup", ONE):  # there is only itself to mix with
        assert len(distinct) == 1
    else:
        assert len(distinct) > 5


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_the_same_for_many_seeds_at_once(name):
    images = random_images(1, FIVE)
    keys = jax.random.split(jax.random.key(1), 3)
    together = jax.jit(jax.vmap(CHANGES[name], in_axes=(0, None)))(keys, images)
    alone = jnp.stack([CHANGES[name](key, images) for key in keys])
    # Compiled in another way, a value may be cut off at the next whole number.
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


@given(seeds, st.integers(1, 7))
@examples
def test_cutout_erases_one_square_and_touches_nothing_else(seed, size):
    images = random_images(seed)
    changed = np.asarray(cutout(jax.random.key(seed), images, size, FILL))
    for before, after in zip(np.asarray(images), changed, strict=True):
        erased = np.all(after == np.asarray(FILL), axis=-1)
        np.testing.assert_array_equal(after[~erased], before[~erased])
        rows, columns = erased.any(axis=1), erased.any(axis=0)
        np.testing.assert_array_equal(erased, np.outer(rows, columns))
        for hit in (rows, columns):
            length, first, last = hit.sum(), hit.argmax(), len(hit) - hit[::-1].argmax()
            assert last - first == length  # in one piece
            assert length == size or (first == 0 or last == len(hit))
            assert (size + 1) // 2 <= length <= size or size == length + size // 2


def test_cutout_is_centred_on_any_pixel_alike():
    images = jnp.ones((20_000, 5, 5, 1))
    changed = cutout(jax.random.key(0), images, 1, jnp.zeros(1))
    frequencies = np.mean(changed == 0, axis=0)
    np.testing.assert_allclose(frequencies, 1 / 25, atol=0.007)


@given(seeds, st.floats(0.1, 5))
@examples
def test_mixup_is_a_weighted_mean_with_another_image(seed, alpha):
    images, labels = random_images(seed), jnp.arange(6)
    mixed, mine, others, share = mixup(jax.random.key(seed), images, labels, alpha)
    assert share.shape == () and 0 <= share <= 1
    np.testing.assert_array_equal(mine, labels)
    assert sorted(others.tolist()) == labels.tolist()
    expected = share * images + (1 - share) * images[others]
    np.testing.assert_allclose(mixed, expected, atol=1e-3)


def test_mixup_shares_have_the_variance_of_their_distribution():
    def share(key):
        return mixup(key, jnp.zeros((2, 1, 1, 1)), jnp.arange(2), 0.5)[-1]

    shares = jax.vmap(share)(jax.random.split(jax.random.key(0), 4000))
    assert abs(shares.mean() - 0.5) < 0.03
    assert abs(shares.var() - 1 / 8) < 0.01  # 1 / (4 (2 alpha + 1))


def by_pillow(pixels, operation, magnitude, sign):
    """What torchvision would make of an 8-bit image, by Pillow alone."""
    from PIL import Image, ImageEnhance, ImageOps

    image = Image.fromarray(pixels)
    width, height = image.size
    shear = sign * np.linspace(0, 0.3, 31)[magnitude]
    factor = 1 + sign * np.linspace(0, 0.9, 31)[magnitude]
    shift = {
        side: int(sign * np.linspace(0, 150 / 331 * side, 31)[magnitude])
        for side in (width, height)
    }
    bits = 8 - round(magnitude / 7.5)

    def affine(*matrix):
        return image.transform(image.size, Image.Transform.AFFINE, matrix)

    result = {
        "identity": lambda: image,
        "shear_x": lambda: affine(1, shear, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, shear, 1, 0),
        "translate_x": lambda: affine(1, 0, -shift[width], 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, -shift[height]),
        "rotate": lambda: image.rotate(sign * np.linspace(0, 30, 31)[magnitude]),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "posterize": lambda: ImageOps.posterize(image, bits),
        "solarize": lambda: ImageOps.solarize(image, 255 - 8.5 * magnitude),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
    }[operation]()
    return np.asarray(result, np.float32)


# The blends and the stretch end in cutting off what is behind the point, where a
# rounding error of float32 before it can cost one.
ONE_OFF = ("brightness", "color", "contrast", "sharpness", "autocontrast")


@functools.partial(jax.jit, static_argnums=2)
def compiled(image, operations, magnitude, signs):
    apply = jax.vmap(apply_operation, in_axes=(None, 0, None, 0))
    return apply(image, operations, magnitude, signs)


# With these no place is in the middle between two pixels, from where it may go to
# either: a shear by m / 100 would need m (2 row + 1) to be an odd multiple of 100.
NO_TIES = (0, 5, 15, 19, 30)
NOISE = (0, 256, (33, 48, 3))
DULL = ((40, 90, 120), (60, 200, 121), (33, 48, 3))  # one channel is constant
SMALL_NOISE = (0, 256, (8, 9, 3))  # too few pixels to equalize


@pytest.mark.parametrize(
    ("magnitude", "kind"),
    [*itertools.product(NO_TIES, (NOISE, DULL)), (15, SMALL_NOISE)],
)
def test_operations_are_those_of_pillow(magnitude, kind):
    pytest.importorskip("PIL", reason="needs focal_sam_jax[experiments,data]")
    low, high, shape = kind
    rng = np.random.default_rng(magnitude)
    pixels = rng.integers(low, high, shape).astype(np.uint8)
    every = list(itertools.product(range(len(OPERATIONS)), (1, -1)))
    operations, signs = (jnp.array(column) for column in zip(*every, strict=True))
    image = jnp.asarray(pixels, jnp.float32)
    results = np.asarray(compiled(image, operations, magnitude, signs))
    for (operation, sign), result in zip(every, results, strict=True):
        name = OPERATIONS[operation]
        difference = np.abs(result - by_pillow(pixels, name, magnitude, sign))
        assert difference.max() <= (name in ONE_OFF), (name, sign)


compiled_randaugment = jax.jit(randaugment, static_argnums=2)


@pytest.mark.parametrize("magnitude", [15, 30])
def test_randaugment_gives_pixels(magnitude):
    images = random_images(0, (300, 8, 8, 3)) - 0.3  # as an interpolation leaves them
    changed = compiled_randaugment(jax.random.key(magnitude), images, magnitude)
    assert changed.min() >= 0 and changed.max() <= 255
    np.testing.assert_array_equal(changed, jnp.round(changed))


def test_randaugment_changes_images_in_many_ways_and_leaves_few_alone():
    image = random_images(0, ONE)
    images = jnp.tile(image, (300, 1, 1, 1))
    changed = compiled_randaugment(jax.random.key(0), images, 15)
    kinds = {np.asarray(one).tobytes() for one in changed}
    assert len(kinds) > 80
    alone = np.mean(np.all(changed == image, axis=(1, 2, 3)))
    assert alone < 0.1  # one in 196 meets identity twice; equalize has too few pixels


@pytest.mark.parametrize("config", [DIGITS, DIGITS.replace(augment="none"), LARGE])
def test_augment_without_anything_more_does_what_it_says(config):
    images = random_images(0, shape_of(1))
    key = jax.random.key(0)
    changed = augment(config, key, images, jnp.zeros(1))
    assert bool(jnp.any(changed != images)) == (config.augment == "affine")


@pytest.mark.parametrize("option", [{}, {"randaugment": 9}, {"augment": "none"}])
def test_switching_one_change_leaves_the_draws_of_another(option):
    images, key = random_images(0, (4, 32, 32, 3)), jax.random.key(0)
    plain = SMALL.replace(cutout=8)
    squares = [
        jax.jit(functools.partial(augment, config))(key, images, FILL)
        == FILL[None, None, None]
        for config in (plain, plain.replace(**option))
    ]
    assert squares[0].any()
    np.testing.assert_array_equal(*squares)


@pytest.mark.parametrize(
    "config",
    [
        DIGITS,
        SMALL,
        LARGE,
        SMALL.replace(augment="affine", randaugment=9, cutout=16, mixup=1.0),
        LARGE.replace(augment="resized_crop_jitter", randaugment=30, cutout=100),
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
        (DIGITS.replace(augment="crop_flip"), "other signs of digits"),
        (DIGITS.replace(randaugment=3), "for colour images"),
        (SMALL.replace(cutout=32), "less than the 32 pixels"),
    ],
)
def test_senseless_augmentation_is_explained(config, message):
    with pytest.raises(UserError, match=message):
        check_augmentation(config)
