"""The data sets that TFDS prepares: CIFAR, Fashion-MNIST, ImageNet-LT and others."""

from pathlib import Path

import numpy as np

from experiments.data.sources.files import Splits, Subset, validation_and_test
from experiments.data.sources.idx import FASHION_MEAN, FASHION_STD
from experiments.data.sources.tfds_records import PreparedSet

# Of CIFAR-10's and CIFAR-100's pixels alike, as in published code.
CIFAR_MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32) * 255
CIFAR_STD = np.array([0.2023, 0.1994, 0.2010], np.float32) * 255

# Of iNaturalist 2018's.
INATURALIST_MEAN = np.array([0.466, 0.471, 0.380], np.float32) * 255
INATURALIST_STD = np.array([0.195, 0.194, 0.192], np.float32) * 255


def cifar(data_dir: Path, data: str) -> Splits:
    """CIFAR-10 or CIFAR-100, balanced, in the order of the original files.

    TFDS shuffles what it writes, but numbers every image by its place in the original
    files: ``train_00266`` is the 267th of ``data_batch_1.bin`` to ``data_batch_5.bin``,
    or of ``train.bin``. Sorted by that, an index into the training split means what it
    means in code that reads the original files, so that the long tail cut from it is
    the published one, image by image. Published code reads the Python version of the
    files and TFDS the binary one; that both list the images in one order is taken as
    given.
    """
    prepared = PreparedSet(data_dir, data)

    def in_order(split):
        images, ids = prepared.open(split, key="id")
        return Subset(images, np.argsort(ids))

    train = in_order("train")
    names = prepared.class_names(train.labels)
    return Splits(train, None, in_order("test"), names, CIFAR_MEAN, CIFAR_STD)


def fashion_mnist(data_dir: Path, data: str) -> Splits:
    """Fashion-MNIST, in the order in which TFDS wrote it."""
    splits = any_tfds(data_dir, data)
    return splits._replace(mean=FASHION_MEAN, std=FASHION_STD)


def imagenet_lt(data_dir: Path, data: str) -> Splits:
    """ImageNet-LT: 115,846 training images, 20 a class to validate, 50 to test."""
    prepared = PreparedSet(data_dir, data)
    train, validation, test = (
        prepared.open(split)[0] for split in ("train", "validation", "test")
    )
    return Splits(train, validation, test, prepared.class_names(train.labels))


def inaturalist18(data_dir: Path, data: str) -> Splits:
    """iNaturalist 2018, where accuracy is reported on the validation images.

    The labels of its test images were never published.
    """
    prepared = PreparedSet(data_dir, data)
    train, test = (prepared.open(split)[0] for split in ("train", "validation"))
    names = prepared.class_names(train.labels)
    return Splits(train, None, test, names, INATURALIST_MEAN, INATURALIST_STD)


def any_tfds(data_dir: Path, data: str) -> Splits:
    """Any data set with features ``image`` and ``label``, and a split ``train``.

    What it has of ``test``, with labels, and ``validation`` is used: see
    :func:`experiments.data.sources.files.validation_and_test`.
    """
    prepared = PreparedSet(data_dir, data)
    train, _ = prepared.open("train")
    validation, test = validation_and_test(
        prepared.open_labelled("validation"),
        prepared.open_labelled("test"),
        str(prepared.folder),
    )
    return Splits(train, validation, test, prepared.class_names(train.labels))
