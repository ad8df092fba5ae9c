"""Data sets that TFDS prepares: CIFAR, Fashion-MNIST, ImageNet-LT and others."""

from pathlib import Path

import numpy as np

from experiments.data.sources.files import Splits, Subset, validation_and_test
from experiments.data.sources.idx import FASHION_MEAN, FASHION_STD
from experiments.data.sources.tfds_records import PreparedSet

# Pixel statistics of CIFAR-10, used for CIFAR-100 too, as in published code.
CIFAR_MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32) * 255
CIFAR_STD = np.array([0.2023, 0.1994, 0.2010], np.float32) * 255

# Pixel statistics of iNaturalist 2018.
INATURALIST_MEAN = np.array([0.466, 0.471, 0.380], np.float32) * 255
INATURALIST_STD = np.array([0.195, 0.194, 0.192], np.float32) * 255


def cifar(data_dir: Path, data: str) -> Splits:
    """Reads CIFAR-10 or CIFAR-100, balanced, in the order of the original files.

    TFDS shuffles the images, but its ids hold their position in the original files:
    ``train_00266`` is the 267th of ``data_batch_1.bin`` to ``data_batch_5.bin``, or of
    ``train.bin``. The images are sorted by id. So an index into the training split is
    the same as in code that reads the original files, and the long-tailed subset has
    exactly the published images. Published code reads the Python version of the files
    and TFDS the binary one. This function assumes that both have the same order.
    """
    prepared = PreparedSet(data_dir, data)

    def in_order(split):
        images, ids = prepared.open(split, key="id")
        return Subset(images, np.argsort(ids))

    train = in_order("train")
    names = prepared.class_names(train.labels)
    return Splits(train, None, in_order("test"), names, CIFAR_MEAN, CIFAR_STD)


def fashion_mnist(data_dir: Path, data: str) -> Splits:
    """Reads Fashion-MNIST, in the order in which TFDS wrote it."""
    splits = any_tfds(data_dir, data)
    return splits._replace(mean=FASHION_MEAN, std=FASHION_STD)


def inaturalist18(data_dir: Path, data: str) -> Splits:
    """Reads iNaturalist 2018; its validation split is the test split here.

    The labels of its test images were never published.
    """
    prepared = PreparedSet(data_dir, data)
    train, test = (prepared.open(split)[0] for split in ("train", "validation"))
    names = prepared.class_names(train.labels)
    return Splits(train, None, test, names, INATURALIST_MEAN, INATURALIST_STD)


def any_tfds(data_dir: Path, data: str) -> Splits:
    """Reads any data set with features ``image`` and ``label``, and a split ``train``.

    Its splits ``test`` and ``validation`` are used if they have labels: see
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
