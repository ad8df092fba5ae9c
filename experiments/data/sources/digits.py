"""Digits-LT, made from scikit-learn's handwritten digits."""

import hashlib

import numpy as np

from experiments.data.dataset import Dataset, Split
from experiments.data.longtail import TAILS, take_per_class

# Side of the images, in pixels.
IMAGE_SIZE = 8

_NUM_CLASSES = 10
_TEST_PER_CLASS = 50
_VALIDATION_PER_CLASS = 24
_LARGEST_CLASS = 100
# Mean and standard deviation of all pixels, which lie in [0, 16].
_MEAN, _STD = 4.884, 6.017


def load(subset_seed: int, imbalance_factor: float, imbalance: str = "exp") -> Dataset:
    """Loads Digits-LT; class 0 is the most frequent, whichever digit it is.

    The division into test, validation and remaining images never changes, so validation
    never uses a test image. The subset seed draws which digit becomes which class, and
    which of the remaining images are kept for training.

    Args:
      subset_seed: seed of the long tail.
      imbalance_factor: examples of the largest class over those of the smallest.
      imbalance: ``exp`` or ``step``, with 100 images in the largest class; ``natural``
        keeps all remaining images, nearly balanced and not sorted by frequency.

    Returns:
      Images of shape ``(8, 8, 1)`` with pixels 0 to 16 in 10 classes: at ``exp`` with
      imbalance factor 30, 307 for training, 240 for validation and 500 for test.
    """
    # Imported late: only these data need it, and the import takes seconds.
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    images = pixels.reshape(-1, IMAGE_SIZE, IMAGE_SIZE, 1).astype(np.uint8)

    partition = np.random.default_rng(0)
    rest = np.arange(len(digits))
    set_aside = []
    for per_class in (_TEST_PER_CLASS, _VALIDATION_PER_CLASS):
        counts = np.full(_NUM_CLASSES, per_class)
        taken = rest[take_per_class(digits[rest], counts, partition)]
        rest = np.setdiff1d(rest, taken)
        set_aside.append(taken)
    test, validation = set_aside

    subset = np.random.default_rng(subset_seed)
    digit_of_class = subset.permutation(_NUM_CLASSES)
    labels = np.argsort(digit_of_class)[digits].astype(np.int32)
    if imbalance == "natural":
        counts = np.bincount(labels[rest], minlength=_NUM_CLASSES)
    else:
        counts = TAILS[imbalance](_NUM_CLASSES, _LARGEST_CLASS, imbalance_factor)
    train = rest[take_per_class(labels[rest], counts, subset)]

    def split(indices):
        return Split(images[indices], labels[indices])

    return Dataset(
        train=split(train),
        validation=split(validation),
        test=split(test),
        class_counts=counts,
        class_names=tuple(str(digit) for digit in digit_of_class),
        mean=np.array([_MEAN], np.float32),
        std=np.array([_STD], np.float32),
        train_hash=hashlib.sha256(np.stack([train, labels[train]])).hexdigest(),
    )
