"""Images in data sets that TFDS has prepared, as ArrayRecord or as TFRecord.

Nothing here needs TensorFlow: records are ``tf.train.Example`` messages, which TFDS
also defines itself, and images are returned in encoded form.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from experiments.data.sources.label_cache import (
    CACHE_FOLDER,
    RecordIndex,
    cached,
    fingerprint,
)
from experiments.data.sources.tfds_folder import require_prepared
from experiments.data.sources.tfrecord import TFRecordFiles, find_records
from experiments.errors import UserError

# TFDS's label of a class that was never published.
_UNLABELLED = -1


class TFDSImages:
    """A source of the records of one split."""

    upright = False

    def __init__(
        self,
        records: ArrayRecordDataSource | TFRecordFiles,
        labels: np.ndarray,
        where: str,
    ):
        """
        Args:
          records: serialised examples.
          labels: class labels, int32, shape ``(size,)``.
          where: data set and split, for messages.
        """
        self.records = records
        self.labels = labels
        self.where = where

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> bytes:
        index = range(len(self))[index]
        features = _features(self.records, index, self.name(index))
        return features["image"].bytes_list.value[0]

    def name(self, index: int) -> str:
        """Returns the number of the record, with data set and split."""
        return f"record {index} of {self.where}"

    def key(self, index: int) -> str:
        """Returns the number of the record."""
        return str(index)


class PreparedSet:
    """A data set that TFDS has prepared in a folder."""

    def __init__(self, data_dir: Path, data: str):
        """
        Args:
          data_dir: folder of data sets.
          data: value of ``--data``.

        Raises:
          UserError: if the data set is missing, or has no images with labels.
        """
        self.data_dir = data_dir
        self.folder = require_prepared(data_dir, data)
        if not (self.folder / "features.json").is_file():
            raise UserError(
                f"{self.folder} has no features.json: it was written by TFDS before "
                "version 4; prepare the data set again."
            )
        self.builder = tfds.builder_from_directory(self.folder)
        self.file_format = self.builder.info.file_format.value
        if self.file_format not in ("array_record", "tfrecord"):
            raise UserError(
                f"{self.folder} contains {self.file_format} files, but only "
                "array_record and tfrecord can be read: prepare the data set in one of "
                "these formats."
            )
        self.features = self._check_features()

    def _check_features(self) -> tfds.features.FeaturesDict:
        features = self.builder.info.features
        names = (
            list(features) if isinstance(features, tfds.features.FeaturesDict) else []
        )
        missing = [name for name in ("image", "label") if name not in names]
        if missing:
            raise UserError(
                f"{self.folder} has no feature {' and no feature '.join(missing)}; "
                "images are read from the features image and label. It has "
                f"{', '.join(sorted(names)) or 'none with a name'}."
            )
        if not isinstance(features["image"], tfds.features.Image):
            raise UserError(
                f"The feature image of {self.folder} must be an encoded image, got "
                f"{features['image']}."
            )
        label = features["label"]
        if label.shape != () or not np.issubdtype(label.np_dtype, np.integer):
            raise UserError(
                f"The feature label of {self.folder} must be one integer, got {label}."
            )
        return features

    def class_names(self, labels: np.ndarray) -> tuple[str, ...]:
        """Returns the class names, or numbers if the data set has no names."""
        label = self.features["label"]
        if isinstance(label, tfds.features.ClassLabel):
            return tuple(label.names)
        return tuple(str(c) for c in range(labels.max() + 1))

    def split_names(self) -> list[str]:
        """Returns the names of the splits that are not empty."""
        splits = self.builder.info.splits
        return [name for name in splits if splits[name].num_examples]

    def open(self, split: str, key: str | None = None) -> tuple[TFDSImages, np.ndarray]:
        """Opens the images of a split.

        The first call reads the labels of all records, which takes minutes for the
        largest sets, and caches them in a hidden folder beside the data.

        Args:
          split: name of the split.
          key: feature with the name of each record, if names are needed.

        Returns:
          The images, and the names, bytes of shape ``(size,)``.

        Raises:
          UserError: if the split does not exist or a file is damaged.
        """
        if split not in self.split_names():
            raise UserError(
                f"{self.folder} has no split {split}; it has "
                f"{', '.join(self.split_names()) or 'none'}."
            )
        where = f"{self.folder}, split {split}"
        info = self.builder.info.splits[split]
        paths = [str(path) for path in info.filepaths]
        cache = "-".join([*self.builder.info.full_name.split("/"), split])
        try:
            changes = fingerprint(paths, key)
        except OSError as error:
            raise UserError(
                f"{error.filename} cannot be read ({error.strerror}): the data set is "
                "not complete; prepare it again."
            ) from None

        def build() -> RecordIndex:
            positions = np.empty((0, 3), np.int64)
            if self.file_format == "tfrecord":
                positions = find_records(paths, info.shard_lengths)
            return _read_index(
                self._records(split, paths, positions), positions, key, where
            )

        index = cached(self.data_dir / CACHE_FOLDER / f"{cache}-{changes}.npz", build)
        records = self._records(split, paths, index.positions)
        return TFDSImages(records, index.labels, where), index.keys

    def open_labelled(self, split: str) -> TFDSImages | None:
        """Opens a split; returns ``None`` if it does not exist or has no labels."""
        if split not in self.split_names():
            return None
        images, _ = self.open(split)
        return images if images.labels.min() > _UNLABELLED else None

    def _records(
        self, split: str, paths: Sequence[str], positions: np.ndarray
    ) -> ArrayRecordDataSource | TFRecordFiles:
        """Returns serialised examples at any index; files are opened when read."""
        if self.file_format == "tfrecord":
            return TFRecordFiles(paths, positions)
        return ArrayRecordDataSource(self.builder.info.splits[split].file_instructions)


def _read_index(
    records: ArrayRecordDataSource | TFRecordFiles,
    positions: np.ndarray,
    key: str | None,
    where: str,
) -> RecordIndex:
    """Reads label and name of every record."""
    labels, keys = [], []
    for index in range(len(records)):
        features = _features(records, index, f"record {index} of {where}")
        labels.append(features["label"].int64_list.value[0])
        if key:
            keys.append(features[key].bytes_list.value[0])
    return RecordIndex(np.array(labels, np.int32), np.array(keys, bytes), positions)


def _features(
    records: ArrayRecordDataSource | TFRecordFiles, index: int, name: str
) -> dict:
    """Decodes the features of one record."""
    try:
        example = tf_example_pb2.Example.FromString(records[index])
    except (RuntimeError, DecodeError) as error:  # RuntimeError is ArrayRecord's
        raise UserError(
            f"{name} cannot be read ({error}): the file is damaged; prepare the data "
            "set again."
        ) from None
    return example.features.feature
