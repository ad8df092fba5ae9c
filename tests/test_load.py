"""Tests of loading a configuration's data, for all image sources."""

import multiprocessing
import operator

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs focal_sam_jax[experiments]")
pytest.importorskip("tensorflow_datasets", reason="needs focal_sam_jax[data]")

import tfds_files

from experiments.configs import get_config
from experiments.data.load import load_dataset
from experiments.data.longtail import exponential_counts
from experiments.errors import UserError

CONFIG = get_config("cifar10_lt", "sgd").replace(imbalance_factor=6.0)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    tfds_files.write_cifar(folder, "cifar10", 12, 2)
    tfds_files.write_imagenet_lt(folder)
    return folder


def rows(split):
    """Every image as bytes, to compare sets of images."""
    return {image.tobytes() for image in split.images}


def test_the_hash_is_of_the_images_that_are_learned_from(data_dir):
    def hash_with(**changes):
        return load_dataset(CONFIG.replace(**changes), data_dir).train_hash

    first = hash_with()
    assert len(first) == 64 and hash_with() == first
    same = {"seed": 1, "augment": "none", "method": "sam", "image_size": 16}
    assert hash_with(**same) == first
    others = [{"subset_seed": 1}, {"held_out": 0.2}, {"imbalance_factor": 3.0}]
    assert len({first, *(hash_with(**other) for other in others)}) == 4
    digits = [get_config("digits_lt", "sgd").replace(subset_seed=i) for i in (0, 0, 1)]
    first, again, other = (load_dataset(c, data_dir).train_hash for c in digits)
    assert first == again != other


@pytest.mark.parametrize("held_out", [0.01, 0.25, 0.5, 0.99])
def test_a_balanced_share_is_held_out_before_the_tail_is_cut(data_dir, held_out):
    whole = load_dataset(CONFIG.replace(imbalance="natural"), data_dir)
    config = CONFIG.replace(held_out=held_out, imbalance_factor=1.0)
    uncut = load_dataset(config, data_dir)
    assert rows(uncut.train) | rows(uncut.validation) == rows(whole.train)
    aside = np.bincount(uncut.validation.labels, minlength=10)
    size = whole.class_counts[0]
    assert aside.tolist() == [np.clip(np.round(size * held_out), 1, size - 1)] * 10

    factor = float(min(3, size - aside[0]))
    data = load_dataset(config.replace(imbalance_factor=factor), data_dir)
    assert rows(data.validation) == rows(uncut.validation)
    assert rows(data.train) <= rows(uncut.train)
    wanted = exponential_counts(10, int(size - aside[0]), factor)
    assert data.class_counts.tolist() == wanted.tolist()
    assert np.bincount(data.train.labels).tolist() == wanted.tolist()
    np.testing.assert_array_equal(data.test.images, whole.test.images)


def test_the_subset_seed_decides_what_is_held_out(data_dir):
    config = CONFIG.replace(held_out=0.3, imbalance="natural")
    first, again = (load_dataset(config, data_dir) for _ in range(2))
    np.testing.assert_array_equal(first.validation.images, again.validation.images)
    other = load_dataset(config.replace(subset_seed=1), data_dir)
    assert rows(first.validation) != rows(other.validation)
    trained = load_dataset(config.replace(seed=1), data_dir)
    np.testing.assert_array_equal(first.train.images, trained.train.images)


def test_nothing_to_hold_out_is_explained(tmp_path):
    tfds_files.write_cifar(tmp_path, "cifar10", 1, 1)
    config = CONFIG.replace(imbalance="natural", held_out=0.5)
    with pytest.raises(UserError, match="--held-out cannot hold out any"):
        load_dataset(config, tmp_path)


def test_held_out_where_data_validate_themselves_is_explained(data_dir):
    config = get_config("imagenet_lt", "sgd").replace(held_out=0.1)
    with pytest.raises(UserError, match="--held-out must be 0, got 0.1"):
        load_dataset(config, data_dir)


def test_another_tail_for_long_tailed_data_is_explained(data_dir):
    config = get_config("imagenet_lt", "sgd")
    assert config.imbalance == "natural"
    config = config.replace(imbalance="exp", imbalance_factor=1.0)
    with pytest.raises(UserError, match="which has 1: .* --imbalance natural"):
        load_dataset(config, data_dir)


@pytest.mark.parametrize("data", ["cifar", "CIFAR10", "folders:x", "digits:8", ""])
def test_an_unknown_name_is_explained(data_dir, data):
    with pytest.raises(
        UserError, match="--data must be digits, fashion_mnist, .*tfds:NAME"
    ):
        load_dataset(CONFIG.replace(data=data), data_dir)


@pytest.mark.parametrize("size", [16, 32, 48])
def test_images_in_memory_have_the_size_that_is_asked_for(data_dir, size):
    data = load_dataset(CONFIG.replace(image_size=size, held_out=0.2), data_dir)
    for part in (data.train, data.validation, data.test):
        assert part.images.shape == (len(part.labels), size, size, 3)
        assert part.images.dtype == np.uint8


def test_all_parts_are_on_disk_or_none(data_dir):
    data = load_dataset(CONFIG.replace(image_size=65, held_out=0.2), data_dir)
    for part in (data.train, data.validation, data.test):
        assert isinstance(part[0], bytes) and not hasattr(part, "images")


def test_other_processes_read_every_part(data_dir):
    config = CONFIG.replace(image_size=65, held_out=0.2)
    data = load_dataset(config, data_dir)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        for part in (data.train, data.validation, data.test):
            last = len(part) - 1
            assert pool.apply(operator.getitem, (part, last)) == part[last]
