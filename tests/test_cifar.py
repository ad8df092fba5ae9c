"""Tests of CIFAR-LT: the published subset, image by image, with original pixels."""

import numpy as np
import pytest
from commands import python

pytest.importorskip("sklearn", reason="needs focal_sam_jax[experiments]")
pytest.importorskip("tensorflow_datasets", reason="needs focal_sam_jax[data]")

import tfds_files

from experiments.configs import get_config
from experiments.data.load import load_dataset
from experiments.data.sources.tfds_records import PreparedSet
from experiments.errors import UserError

CONFIG = get_config("cifar10_lt", "sgd")

# The published code, for labels in the order of the original files.
PUBLISHED = """
import sys
import numpy as np
labels = np.load(sys.argv[1])
factor, seed = float(sys.argv[2]), int(sys.argv[3])
classes = labels.max() + 1
largest = len(labels) / classes
np.random.seed(seed)
for c in range(classes):
    indices = np.where(labels == c)[0]
    np.random.shuffle(indices)
    print(*indices[: int(largest * factor ** (c / (classes - 1.0)))])
"""


def published_indices(labels, factor, seed, folder):
    """Computes the subset with independent code, in a separate process."""
    np.save(folder / "labels.npy", labels)
    done = python(PUBLISHED, folder / "labels.npy", factor, seed)
    return np.array([int(index) for index in done.stdout.split()])


def original_images(classes, per_class, seed):
    """Pixels and labels in the order of the original files."""
    labels = tfds_files.cifar_labels(classes, per_class, seed)
    rng = np.random.default_rng(seed)
    images = [tfds_files.coloured_noise(c, classes, 32, rng) for c in labels.tolist()]
    return np.array(images), labels


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_images_are_those_that_published_code_keeps(tmp_path, name, seed):
    tfds_files.write_cifar(tmp_path, name, train_per_class=20, shards=2)
    config = CONFIG.replace(data=name, imbalance_factor=10.0, subset_seed=seed)
    data = load_dataset(config, tmp_path)
    images, labels = original_images(tfds_files.CLASSES[name], 20, 0)
    kept = published_indices(labels, 0.1, seed, tmp_path)
    assert data.train.labels.tolist() == labels[kept].tolist()
    np.testing.assert_array_equal(data.train.images, images[kept])
    assert data.class_counts.tolist() == np.bincount(labels[kept]).tolist()

    images, labels = original_images(tfds_files.CLASSES[name], 2, 1)
    assert data.test.labels.tolist() == labels.tolist()
    np.testing.assert_array_equal(data.test.images, images)


def test_what_comes_with_cifar(tmp_path):
    tfds_files.write_cifar(tmp_path, "cifar10", file_format="tfrecord")
    data = load_dataset(CONFIG.replace(imbalance="natural"), tmp_path)
    assert data.validation is None
    assert data.class_names == tuple(tfds_files.CIFAR10_NAMES)
    assert data.class_counts.tolist() == [12] * 10
    assert data.train.images.dtype == np.uint8
    assert data.train.labels.dtype == np.int32
    assert data.mean.dtype == data.std.dtype == np.float32
    np.testing.assert_allclose(data.mean / 255, [0.4914, 0.4822, 0.4465], rtol=1e-6)
    np.testing.assert_allclose(data.std / 255, [0.2023, 0.1994, 0.2010], rtol=1e-6)


def test_larger_images_are_streamed(tmp_path):
    tfds_files.write_cifar(tmp_path, "cifar10")
    small, large = (
        load_dataset(
            CONFIG.replace(image_size=size, imbalance_factor=4.0), tmp_path
        ).train
        for size in (32, 224)
    )
    assert large.labels.tolist() == small.labels.tolist()
    assert large[0].startswith(b"\x89PNG") and "split train" in large.name(0)


def test_a_step_tail(tmp_path):
    tfds_files.write_cifar(tmp_path, "cifar10")
    config = CONFIG.replace(imbalance="step", imbalance_factor=4.0)
    data = load_dataset(config, tmp_path)
    assert data.class_counts.tolist() == [12] * 5 + [3] * 5


def test_too_long_a_tail_is_explained(tmp_path):
    tfds_files.write_cifar(tmp_path, "cifar10")
    with pytest.raises(UserError, match="at most 12"):
        load_dataset(CONFIG, tmp_path)


@pytest.mark.slow
def test_the_real_number_of_images_gives_the_published_subset(tmp_path):
    tfds_files.write_cifar(tmp_path, "cifar100", 500, 100)
    config = CONFIG.replace(data="cifar100", image_size=224)
    data = load_dataset(config, tmp_path)
    assert data.class_counts.sum() == 10_847 and len(data.test.labels) == 10_000
    train = data.train
    labels = tfds_files.cifar_labels(100, 500, 0)
    kept = published_indices(labels, 0.01, 0, tmp_path)
    # TFDS's ids give each image's place in the original files.
    in_order = train.source
    _, ids = PreparedSet(tmp_path, "cifar100").open("train", key="id")
    places = [int(name.removeprefix(b"train_")) for name in ids[in_order.indices]]
    assert np.array(places)[train.indices].tolist() == kept.tolist()
