"""Tests of the data sets that TFDS prepares: splits used, and errors."""

import io
import shutil

import numpy as np
import pytest
from commands import python

pytest.importorskip("sklearn", reason="needs focal_sam_jax[experiments]")
pytest.importorskip("tensorflow_datasets", reason="needs focal_sam_jax[data]")

import tensorflow_datasets as tfds
import tfds_files
from PIL import Image

from experiments.configs import get_config
from experiments.data.load import load_dataset
from experiments.data.sources.tfds_folder import TFDS_NAMES
from experiments.data.sources.tfds_records import PreparedSet
from experiments.errors import UserError

NATURAL = get_config("cifar10_lt", "sgd").replace(imbalance="natural", image_size=224)


def load(data_dir, data, **changes):
    return load_dataset(NATURAL.replace(data=data, **changes), data_dir)


def toy(data_dir, features, splits, name="toy", configs=(), config=None):
    """Writes an unregistered data set with the given features and examples."""
    with tfds.core.registered.skip_registration():
        members = {
            "VERSION": tfds.core.Version("1.0.0"),
            "BUILDER_CONFIGS": [tfds.core.BuilderConfig(name=c) for c in configs],
            "__module__": __name__,
            "pkg_dir_path": data_dir,
            "_info": lambda self: tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            ),
            "_split_generators": None,
            "_generate_examples": None,
        }
        kind = type(name.title(), (tfds.core.GeneratorBasedBuilder,), members)
    builder = kind(data_dir=data_dir, file_format="array_record", config=config)
    numbered = {split: list(enumerate(rows)) for split, rows in splits.items()}
    return tfds_files.prepare(builder, numbered)


IMAGE_AND_LABEL = {
    "image": tfds.features.Image(),
    "label": tfds.features.ClassLabel(names=["left", "right"]),
}


def examples(*labels):
    """One small grey image for every label."""
    image = np.full((8, 8, 3), 100, np.uint8)
    return [
        {"image": tfds_files.encode(image, "PNG"), "label": label} for label in labels
    ]


@pytest.mark.parametrize("data", [*TFDS_NAMES, "tfds:mnist", "tfds:a/b:1.2.3"])
def test_missing_data_say_where_and_how(tmp_path, data):
    if data == "places_lt":
        (tmp_path / "places_lt").mkdir()
        for part in ("train", "val", "test"):
            (tmp_path / "places_lt" / f"Places_LT_{part}.txt").write_text("a/b.jpg 0")
    name, _, version = TFDS_NAMES.get(data, data.removeprefix("tfds:")).partition(":")
    with pytest.raises(UserError) as caught:
        load(tmp_path, data)
    message = str(caught.value)
    assert str(tmp_path / name / version) in message
    assert f"python -m experiments.prepare {data} --data-dir {tmp_path}" in message
    if data == "imagenet_lt":
        assert str(tmp_path / "downloads" / "manual") in message
        assert "ILSVRC2012_img_train.tar" in message and "_val.tar" in message


def test_unfinished_data_are_missing(tmp_path):
    folder = tfds_files.write_cifar(tmp_path, "cifar10")
    folder.rename(folder.with_name("incomplete.ABCDEF_3.0.2"))
    for data in ("cifar10", "tfds:cifar10"):
        with pytest.raises(UserError, match="experiments.prepare"):
            load(tmp_path, data)


@pytest.mark.parametrize("package", ["tensorflow_datasets", "array_record"])
def test_a_missing_package_is_explained(tmp_path, package):
    tfds_files.write_cifar(tmp_path, "cifar10")
    program = f"""
import sys
sys.modules[{package!r}] = None
from pathlib import Path
from experiments.configs import get_config
from experiments.data.load import load_dataset
from experiments.errors import UserError
try:
    load_dataset(get_config("cifar10_lt", "sgd"), Path({str(tmp_path)!r}))
except UserError as error:
    print(error)
"""
    done = python(program)
    assert package in done.stdout, done.stderr
    assert "pip install -e '.[experiments,data]'" in done.stdout


@pytest.mark.parametrize(
    ("splits", "validation", "test"),
    [
        ({"test": (0, 1)}, None, 2),
        ({"test": (0, 1), "validation": (0, 0, 1)}, 3, 2),
        ({"validation": (0, 0, 1)}, None, 3),
        ({"test": (-1, -1), "validation": (0, 0, 1)}, None, 3),
    ],
)
def test_which_part_is_tested_on(tmp_path, splits, validation, test):
    parts = {name: examples(*labels) for name, labels in splits.items()}
    toy(tmp_path, IMAGE_AND_LABEL, {"train": examples(0, 0, 1)} | parts)
    data = load(tmp_path, "tfds:toy")
    assert data.class_names == ("left", "right")
    assert data.class_counts.tolist() == [2, 1]
    assert len(data.test.labels) == test
    assert (data.validation and len(data.validation.labels)) == validation


@pytest.mark.parametrize(
    ("splits", "words"),
    [
        ({"train": (0, 1)}, "neither a test nor a validation split"),
        ({"train": (0, 1), "test": (-1,)}, "neither a test nor a validation split"),
        ({"test": (0, 1)}, "no split train; it has test"),
        ({"train": (0, 0), "test": (0,)}, r"Class 1 \(right\) .*no training image"),
        ({"train": (0, -1), "test": (0,)}, "train split .* of class -1"),
    ],
)
def test_parts_that_do_not_suit_are_explained(tmp_path, splits, words):
    parts = {name: examples(*labels) for name, labels in splits.items()}
    toy(tmp_path, IMAGE_AND_LABEL, parts)
    with pytest.raises(UserError, match=words):
        load(tmp_path, "tfds:toy")


@pytest.mark.parametrize(
    ("features", "row", "words"),
    [
        ({"text": tfds.features.Text()}, {"text": "a"}, "image and no feature label"),
        (
            {"image": tfds.features.Image(), "kind": tfds.features.Text()},
            {"kind": "a", "image": examples(0)[0]["image"]},
            "no feature label; .* It has image, kind",
        ),
        (
            {"image": tfds.features.Text(), "label": np.int64},
            {"image": "a", "label": 0},
            "feature image .* must be an encoded image",
        ),
        (
            {"image": tfds.features.Image(), "label": tfds.features.Text()},
            {"image": examples(0)[0]["image"], "label": "a"},
            "feature label .* must be one integer",
        ),
    ],
)
def test_features_that_do_not_suit_are_explained(tmp_path, features, row, words):
    toy(tmp_path, features, {"train": [row]})
    with pytest.raises(UserError, match=words):
        load(tmp_path, "tfds:toy")


def test_classes_without_names_are_numbered(tmp_path):
    features = {"image": tfds.features.Image(), "label": np.int32}
    toy(tmp_path, features, {"train": examples(0, 2, 1, 2), "test": examples(2)})
    data = load(tmp_path, "tfds:toy")
    assert data.class_names == ("0", "1", "2")
    assert data.class_counts.tolist() == [1, 1, 2]


def test_configurations_and_versions(tmp_path):
    parts = {"train": (0, 1), "test": (0, 1)}
    for config in ("big", "small"):
        splits = {name: examples(*labels) for name, labels in parts.items()}
        toy(tmp_path, IMAGE_AND_LABEL, splits, configs=["big", "small"], config=config)
    with pytest.raises(UserError, match="toy/big, toy/small"):
        load(tmp_path, "tfds:toy")
    for name in ("toy/big", "toy/big:1.0.0"):
        assert len(load(tmp_path, f"tfds:{name}").train.labels) == 2
    with pytest.raises(UserError, match="toy/big/2.0.0"):
        load(tmp_path, "tfds:toy/big:2.0.0")
    shutil.rmtree(tmp_path / "toy" / "small")
    assert len(load(tmp_path, "tfds:toy").train.labels) == 2


def test_the_newest_version_is_taken(tmp_path):
    folder = toy(
        tmp_path, IMAGE_AND_LABEL, {"train": examples(0, 1), "test": examples(0)}
    )
    for version in ("0.9.0", "0.10.0"):
        shutil.copytree(folder, folder.with_name(version))
    assert PreparedSet(tmp_path, "tfds:toy").folder.name == "1.0.0"
    shutil.rmtree(folder)
    assert PreparedSet(tmp_path, "tfds:toy").folder.name == "0.10.0"


def test_imagenet_lt(tmp_path):
    tfds_files.write_imagenet_lt(tmp_path)
    data = load(tmp_path, "imagenet_lt")
    assert data.class_counts.tolist() == [2 if c % 10 == 0 else 1 for c in range(1000)]
    assert len(data.validation.labels) == len(data.test.labels) == 1000
    assert data.class_names[0] == "n01440764"
    np.testing.assert_allclose(data.mean / 255, [0.485, 0.456, 0.406], rtol=1e-6)
    np.testing.assert_allclose(data.std / 255, [0.229, 0.224, 0.225], rtol=1e-6)
    assert Image.open(io.BytesIO(data.train[0])).format == "JPEG"
    assert "imagenet_lt/1.0.0, split train" in data.train.name(0)


def test_inaturalist_is_tested_on_its_validation_images(tmp_path):
    tfds_files.write_i_naturalist2018(tmp_path)
    data = load(tmp_path, "inaturalist18")
    assert data.class_counts.shape == (8142,) and data.class_counts.max() == 2
    assert data.validation is None
    assert len(data.test.labels) == 302 and data.test.labels.min() >= 0
    np.testing.assert_allclose(data.mean / 255, [0.466, 0.471, 0.380], rtol=1e-6)
    np.testing.assert_allclose(data.std / 255, [0.195, 0.194, 0.192], rtol=1e-6)
    same = load(tmp_path, "tfds:i_naturalist2018")
    assert same.test.labels.tolist() == data.test.labels.tolist()
