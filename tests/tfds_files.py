"""Small data sets on disk, in TFDS's own format with the real names and features.

TFDS's builders write them; only the source of the images is replaced. Images are noise
around the colour of their class, so that a network can learn them.
"""

import functools
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_data_source import ArrayRecordDataSource
from PIL import Image
from tfrecord_files import framed

CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck".split()
CIFAR100_NAMES = [f"thing {label}" for label in range(100)]
CLASSES = {"cifar10": 10, "cifar100": 100}
PLACES_CLASSES = 365


def write_cifar(
    data_dir: Path,
    name: str = "cifar100",
    train_per_class: int = 12,
    test_per_class: int = 2,
    file_format: str = "array_record",
    shards: int = 1,
) -> Path:
    """Writes CIFAR-10 or CIFAR-100.

    The real sets have 5000 training and 1000 test images per class, or 500 and 100.

    Returns:
      The folder of the data set. As in TFDS, its ids are the places of the images in
      the original files, where classes are in random order.
    """
    classes = CLASSES[name]

    def examples(split, per_class, seed):
        rng = np.random.default_rng(seed)
        for i, label in enumerate(cifar_labels(classes, per_class, seed).tolist()):
            image = encode(coloured_noise(label, classes, 32, rng), "PNG")
            example = {"id": f"{split}_{i:05d}", "image": image, "label": label}
            if name == "cifar100":
                example["coarse_label"] = label // 5
            yield i, example

    splits = {
        "train": examples("train", train_per_class, 0),
        "test": examples("test", test_per_class, 1),
    }
    names = CIFAR10_NAMES if name == "cifar10" else CIFAR100_NAMES

    def name_classes(builder):
        builder.info.features["label"].names = names

    return write(data_dir, name, splits, file_format, shards, name_classes)


def cifar_labels(classes: int, per_class: int, seed: int) -> np.ndarray:
    """Labels in the order of the original files; seed 0: training split, 1: test."""
    rng = np.random.default_rng(100 + seed)
    return rng.permutation(np.repeat(np.arange(classes), per_class))


def write_imagenet_lt(
    data_dir: Path,
    train_counts: Callable[[int], int] = lambda label: 1 + (label % 10 == 0),
    size: int = 24,
    file_format: str = "array_record",
    shards: int = 1,
) -> Path:
    """Writes ImageNet-LT with one validation and one test image per class.

    Class c of the 1000 classes has ``train_counts(c)`` training images.
    """

    def examples(split, count, seed):
        rng = np.random.default_rng(seed)
        for label in range(1000):
            for i in range(count(label)):
                file = f"{split}_{label}_{i}.JPEG"
                image = encode(coloured_noise(label, 1000, size, rng), "JPEG")
                yield file, {"image": image, "label": label, "file_name": file}

    splits = {
        "train": examples("train", train_counts, 0),
        "validation": examples("validation", lambda label: 1, 1),
        "test": examples("test", lambda label: 1, 2),
    }
    return write(data_dir, "imagenet_lt", splits, file_format, shards)


def write_i_naturalist2018(
    data_dir: Path,
    train_counts: Callable[[int], int] = lambda label: 1 + (label % 100 == 0),
    size: int = 16,
    file_format: str = "array_record",
    shards: int = 1,
) -> Path:
    """Writes iNaturalist 2018 with ``train_counts(c)`` training images of species c.

    There are 8142 species, 302 validation images, and 20 test images with label -1.
    """

    def examples(split, labels, seed):
        rng = np.random.default_rng(seed)
        for i, label in enumerate(labels):
            image = encode(coloured_noise(label, 8142, size, rng), "JPEG")
            yield (
                f"{split}_{i}",
                {
                    "id": f"{split}_{i}",
                    "image": image,
                    "label": label,
                    "supercategory": -1 if label < 0 else label % 14,
                },
            )

    train = [label for label in range(8142) for _ in range(train_counts(label))]
    splits = {
        "train": examples("train", train, 0),
        "validation": examples("validation", range(0, 8142, 8142 // 300), 1),
        "test": examples("test", [-1] * 20, 2),
    }
    return write(data_dir, "i_naturalist2018", splits, file_format, shards)


def write_places(
    data_dir: Path,
    train_counts: Callable[[int], int] = lambda label: 2 + (label % 10 == 0),
    spare: int = 2,
    size: int = 32,
    file_format: str = "array_record",
    shards: int = 1,
    by_class: bool = False,
) -> Path:
    """Writes Places365 and the lists of Places-LT.

    For each of the 365 classes, the lists contain the training images, one validation
    and one test image.

    Args:
      data_dir: folder of data sets.
      train_counts: number of listed training images of a class.
      spare: number of unlisted training images per class.
      size: side of the images, in pixels.
      file_format: ``array_record`` or ``tfrecord``.
      shards: number of files per split.
      by_class: write the lists' paths as ``train/arena-hockey/00000001.jpg``, not as
        ``data_256/a/arena/hockey/00000001.jpg``.
    """
    names = places_names()
    rng = np.random.default_rng(0)
    lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}

    def image(label):
        return encode(coloured_noise(label, PLACES_CLASSES, size, rng), "JPEG")

    def listed(part, label, file, path):
        folder = "val" if part == "test" else "train"
        short = f"{folder}/{names[label].replace('/', '-')}/{file}"
        lists[part].append(f"{short if by_class else path} {label}")

    def train():
        for label, name in enumerate(names):
            count = train_counts(label)
            for i in rng.permutation(count + 1 + spare).tolist():
                file = f"{i:08d}.jpg"
                path = f"data_256/{name[0]}/{name}/{file}"
                if i <= count:
                    listed("train" if i < count else "val", label, file, path)
                yield path, {"image": image(label), "label": label, "filename": path}

    def validation():
        seen = set()
        for i, label in enumerate((rng.permutation(2 * PLACES_CLASSES) // 2).tolist()):
            file = f"Places365_val_{i:08d}.jpg"
            path = f"val_256/{file}"
            if label not in seen:
                seen.add(label)
                listed("test", label, file, path)
            yield path, {"image": image(label), "label": label, "filename": path}

    def test():
        for i in range(5):
            path = f"test_256/Places365_test_{i:08d}.jpg"
            yield path, {"image": image(-1), "label": -1, "filename": path}

    splits = {"train": train(), "validation": validation(), "test": test()}
    folder = write(data_dir, "places365_small", splits, file_format, shards)
    (data_dir / "places_lt").mkdir(exist_ok=True)
    for part, lines in lists.items():
        file = data_dir / "places_lt" / f"Places_LT_{part}.txt"
        file.write_text("\n".join(lines) + "\n")
    return folder


@functools.cache
def places_names() -> list[str]:
    """The 365 classes as TFDS has them."""
    return tfds.builder("places365_small").info.features["label"].names


def coloured_noise(
    label: int, classes: int, size: int, rng: np.random.Generator
) -> np.ndarray:
    """An image whose mean colour is the class's, uint8, ``(size, size, 3)``."""
    colour = np.random.default_rng([classes, label % (classes + 1)]).integers(
        60, 196, 3
    )
    noise = rng.integers(-50, 50, (size, size, 3))
    return (colour + noise).astype(np.uint8)


def encode(image: np.ndarray, kind: str) -> io.BytesIO:
    """Encodes to a file in memory; PNG is lossless, JPEG is not."""
    file = io.BytesIO()
    options = {"compress_level": 0} if kind == "PNG" else {}
    Image.fromarray(image).save(file, kind, **options)
    file.seek(0)
    return file


def write(
    data_dir: Path,
    name: str,
    splits: dict[str, Iterable[tuple[int | str, dict]]],
    file_format: str = "array_record",
    shards: int = 1,
    change: Callable = lambda builder: None,
) -> Path:
    """Writes any data set that TFDS has a builder for.

    Args:
      data_dir: folder of data sets.
      name: name of the data set.
      splits: keys and examples by split name; images are files in memory.
      file_format: ``array_record`` or ``tfrecord``.
      shards: number of files per split.
      change: function that modifies the builder.

    Returns:
      The folder of the data set.
    """
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    change(builder)
    return prepare(builder, splits, file_format, shards)


def prepare(
    builder: tfds.core.GeneratorBasedBuilder,
    splits: dict[str, Iterable[tuple[int | str, dict]]],
    file_format: str = "array_record",
    shards: int = 1,
) -> Path:
    """Lets a builder write examples that are given to it."""
    builder._split_generators = lambda dl_manager: {
        split: iter(examples) for split, examples in splits.items()
    }
    tfds.disable_progress_bar()
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(
            try_download_gcs=False, num_shards=shards
        )
    )
    folder = Path(builder.data_dir)
    if file_format == "tfrecord":
        to_tfrecord(folder)
    return folder


def to_tfrecord(folder: Path) -> None:
    """Converts an ArrayRecord data set to TFRecord: same records, same order.

    TFDS itself needs TensorFlow to write TFRecord files.
    """
    for path in sorted(folder.glob("*.array_record-*")):
        records = iter(ArrayRecordDataSource(str(path)))
        name = path.name.replace(".array_record-", ".tfrecord-")
        with open(folder / name, "wb") as file:
            for record in records:
                file.write(framed(record))
        path.unlink()
    info_file = folder / "dataset_info.json"
    info = json.loads(info_file.read_text())
    info_file.write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
