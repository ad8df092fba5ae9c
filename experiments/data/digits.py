"""Digits-LT, from the handwritten digits that come with scikit-learn."""

import numpy as np
from sklearn.datasets import load_digits

from experiments.data.dataset import Dataset, Split
from experiments.data.longtail import exponential_counts, take_per_class

_NUM_CLASSES = 10
_TEST_PER_CLASS = 50
_VALIDATION_PER_CLASS = 24
_LARGEST_CLASS = 100
# Mean and standard deviation of all pixels, which lie in [0, 16].
_MEAN, _STD = 4.884, 6.017


def load(subset_seed: int, imbalance_factor: float) -> Dataset:
    """The data set; class 0 is the most frequent, whichever digit that is.

    The division into test, validation and the rest never changes, so that no test
    image was ever validated on. The subset seed draws which digit has which rank, and
    which images of the rest are kept.

    Args:
      subset_seed: seed of the long tail.
      imbalance_factor: examples of the largest class over those of the smallest.

    Returns:
      Images of shape ``(8, 8, 1)`` in 10 classes: at imbalance factor 30, 307 to train
      with, 240 for validation and 500 for test.
    """
    pixels, digits = load_digits(return_X_y=True)
    images = ((pixels.reshape(-1, 8, 8, 1) - _MEAN) / _STD).astype(np.float32)

    partition = np.random.default_rng(0)
    rest = np.arange(len(digits))
    held_out = []
    for per_class in (_TEST_PER_CLASS, _VALIDATION_PER_CLASS):
        counts = np.full(_NUM_CLASSES, per_class)
        taken = rest[take_per_class(digits[rest], counts, partition)]
        rest = np.setdiff1d(rest, taken)
        held_out.append(taken)
    test, validation = held_out

    subset = np.random.default_rng(subset_seed)
    digit_of_class = subset.permutation(_NUM_CLASSES)
    labels = np.argsort(digit_of_class)[digits].astype(np.int32)
    counts = exponential_counts(_NUM_CLASSES, _LARGEST_CLASS, imbalance_factor)
    train = rest[take_per_class(labels[rest], counts, subset)]

    def split(indices):
        return Split(images[indices], labels[indices])

    return Dataset(
        train=split(train),
        validation=split(validation),
        test=split(test),
        class_counts=counts,
        class_names=tuple(str(digit) for digit in digit_of_class),
    )
