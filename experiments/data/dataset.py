"""A data set that fits in memory."""

from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """Images and their classes.

    Attributes:
      images: float32, shape ``(size, height, width, channels)``, normalised.
      labels: int32, shape ``(size,)``.
    """

    images: np.ndarray
    labels: np.ndarray


class Dataset(NamedTuple):
    """A long-tailed training set with balanced sets to judge by.

    Attributes:
      train: what is learned from.
      validation: what choices are made by; no reported number uses it.
      test: what is reported.
      class_counts: training examples of each class, descending, ``(num_classes,)``.
      class_names: a name for each class.
    """

    train: Split
    validation: Split
    test: Split
    class_counts: np.ndarray
    class_names: tuple[str, ...]
