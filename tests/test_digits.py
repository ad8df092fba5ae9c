"""Tests of Digits-LT: sizes, class names, disjoint splits."""

from pathlib import Path

import numpy as np
import pytest
from commands import python

pytest.importorskip("sklearn", reason="needs focal_sam_jax[experiments]")

from experiments.configs import get_config
from experiments.data.load import load_dataset
from experiments.data.sources import digits
from experiments.errors import UserError

CONFIG = get_config("digits_lt", "sgd")
NOWHERE = Path("nowhere")


def rows(split):
    """Every image as bytes, to compare sets of images."""
    return {image.tobytes() for image in split.images}


def test_digits_have_the_documented_sizes():
    data = load_dataset(CONFIG, NOWHERE)
    assert data.class_counts.tolist() == [100, 68, 46, 32, 22, 15, 10, 7, 4, 3]
    assert np.bincount(data.train.labels).tolist() == data.class_counts.tolist()
    assert np.bincount(data.validation.labels).tolist() == [24] * 10
    assert np.bincount(data.test.labels).tolist() == [50] * 10
    assert data.train.images.shape == (307, 8, 8, 1)
    assert data.train.labels.dtype == np.int32


def test_pixels_come_with_their_mean_and_deviation():
    data = load_dataset(CONFIG.replace(imbalance="natural"), NOWHERE)
    images = np.concatenate([data.train.images, data.validation.images])
    images = np.concatenate([images, data.test.images])
    assert images.dtype == np.uint8 and images.max() == 16
    assert data.mean.shape == data.std.shape == (1,)
    assert data.mean.dtype == data.std.dtype == np.float32
    normalised = (images - data.mean) / data.std
    assert abs(normalised.mean()) < 1e-3 and abs(normalised.std() - 1) < 1e-3


def test_nothing_cut_leaves_all_the_rest():
    data = load_dataset(CONFIG.replace(imbalance="natural"), NOWHERE)
    sizes = [len(part.labels) for part in (data.train, data.validation, data.test)]
    assert sum(sizes) == 1797
    assert np.bincount(data.train.labels).tolist() == data.class_counts.tolist()


def test_a_step_tail():
    data = load_dataset(CONFIG.replace(imbalance="step"), NOWHERE)
    assert data.class_counts.tolist() == [100] * 5 + [3] * 5
    assert np.bincount(data.train.labels).tolist() == data.class_counts.tolist()


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
    # A zero has a hole.
    assert zeros[3:5, 3:5].mean() < data.mean.item() < ones[3:5, 3:5].mean()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"imbalance_factor": 101.0}, "at most 100"),
        ({"held_out": 0.1}, "--held-out"),
        ({"image_size": 32}, "--image-size must be 8"),
    ],
)
def test_what_digits_cannot_do_is_explained(changes, words):
    with pytest.raises(UserError, match=words):
        load_dataset(CONFIG.replace(**changes), NOWHERE)


def test_digits_need_no_package_for_image_files():
    program = """
import sys
for name in ("PIL", "grain", "tensorflow_datasets", "array_record"):
    sys.modules[name] = None
from pathlib import Path
from experiments.configs import get_config
from experiments.data.load import load_dataset
print(len(load_dataset(get_config("digits_lt", "sgd"), Path("nowhere")).test.labels))
"""
    done = python(program)
    assert done.stdout.strip() == "500", done.stderr
