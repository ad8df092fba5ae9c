"""Tests of IDX files: reading, errors, and a network trained on them."""

import gzip
import json

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs focal_sam_jax[experiments]")
pytest.importorskip("PIL", reason="needs focal_sam_jax[data]")

from idx_files import idx, write
from tiny_runs import run_train

from experiments.configs import get_config
from experiments.data.load import load_dataset
from experiments.data.sources.files import hash_of
from experiments.data.sources.idx import from_idx
from experiments.errors import UserError
from experiments.train import parse

FASHION = [6000, 3596, 2156, 1292, 774, 464, 278, 166, 100, 60]


def test_pixels_labels_and_statistics_are_those_of_the_files(tmp_path):
    for packed in (True, False):
        folder = write(tmp_path / str(packed), [9, 4, 2], packed=packed)
        splits = from_idx(folder)
        assert np.bincount(splits.train.labels).tolist() == [9, 4, 2]
        assert np.bincount(splits.test.labels).tolist() == [5, 5, 5]
        assert splits.class_names == ("0", "1", "2") and splits.validation is None
        pixels = splits.train.pixels
        np.testing.assert_allclose(splits.mean, pixels.mean(), rtol=1e-6)
        np.testing.assert_allclose(splits.std, pixels.std(), rtol=1e-6)
    config = get_config("fashion_mnist_lt_small", "sgd")
    config = config.replace(data=f"idx:{folder}", imbalance="natural")
    dataset = load_dataset(config, tmp_path)
    assert dataset.train.images.shape == (15, 28, 28, 3)
    for channel in range(3):
        np.testing.assert_array_equal(dataset.train.images[..., channel], pixels)


def test_a_set_may_have_a_name_labels_from_1_and_test_in_place_of_t10k(tmp_path):
    write(tmp_path, [4, 3], prefix="emnist-letters-", test="test", first=1)
    splits = from_idx(tmp_path)
    assert splits.class_names == ("1", "2")
    assert splits.train.labels.tolist().count(0) == 4
    write(tmp_path, [4, 3, 2], prefix="emnist-digits-", test="test")
    with pytest.raises(UserError, match="several data sets: add .*emnist-digits or .*"):
        from_idx(tmp_path)
    assert len(from_idx(tmp_path / "emnist-digits").class_names) == 3


def test_the_hash_is_of_the_pixels_too(tmp_path):
    first = from_idx(write(tmp_path / "a", [4, 3])).train
    again = from_idx(write(tmp_path / "b", [4, 3], packed=False)).train
    assert hash_of(first) == hash_of(again)
    again.pixels = again.pixels.copy()
    again.pixels[2, 3, 3] ^= 1
    assert hash_of(first) != hash_of(again)


TRAIN = "train-images-idx3-ubyte.gz"
LABELS = "train-labels-idx1-ubyte.gz"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (TRAIN, None, "has no train-images-idx3-ubyte"),
        (LABELS, None, "there is no .*train-labels-idx1-ubyte or .*gz"),
        ("t10k-images-idx3-ubyte.gz", None, "there is no .*t10k-images-idx3-ubyte"),
        (TRAIN, b"", "is damaged or cannot be read|is not an IDX file"),
        (TRAIN, b"\x1f\x8b\x08\x00damaged", "is damaged or cannot be read"),
        (TRAIN, b"an image", "is damaged or cannot be read: Not a gzipped file"),
        (TRAIN, gzip.compress(b"\0\0\x08"), "is not an IDX file .* with 3 axes"),
        (
            TRAIN,
            gzip.compress(idx(np.zeros((15, 28)))),
            "is not an IDX file of unsigned bytes with 3 axes: it begins with 00 00 08 "
            "02",
        ),
        (
            TRAIN,
            gzip.compress(idx(np.zeros((15, 28, 28)), kind=13)),
            "it begins with 00 00 0d 03",
        ),
        (
            TRAIN,
            gzip.compress(idx(np.zeros((15, 28, 28)))[:-1]),
            "has 11759 values, but its header declares 15 x 28 x 28",
        ),
        (
            TRAIN,
            gzip.compress(idx(np.zeros((14, 28, 28)))),
            "has 14 images and .* 15 labels",
        ),
        (LABELS, gzip.compress(idx(np.zeros(15))), "has the label 1, which no train"),
    ],
)
def test_damaged_and_missing_files_are_one_sentence(name, content, words, tmp_path):
    folder = write(tmp_path, [9, 4, 2])
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(UserError, match=words) as refused:
        from_idx(folder)
    assert "\n" not in str(refused.value)


def test_fashion_mnist_is_cut_as_published(tmp_path):
    write(tmp_path / "fashion_mnist", [6000] * 10, size=8, packed=False)
    config = get_config("fashion_mnist_lt", "focal_sam").replace(image_size=8)
    dataset = load_dataset(config, tmp_path)
    assert dataset.class_counts.tolist() == FASHION
    assert len(dataset.train.labels) == 14_886
    assert dataset.class_names[0] == "T-shirt/top"
    # As in published code: NumPy's legacy generator, class by class.
    whole = from_idx(tmp_path / "fashion_mnist").train
    stream, chosen = np.random.RandomState(0), []
    for c, count in enumerate(FASHION):
        of_class = np.flatnonzero(whole.labels == c)
        stream.shuffle(of_class)
        chosen += [*of_class[:count]]
    np.testing.assert_array_equal(dataset.train.images[..., 0], whole.pixels[chosen])


def test_what_is_held_out_is_balanced_and_not_trained_on(tmp_path):
    write(tmp_path / "fashion_mnist", [200] * 10, size=8)
    config = get_config("fashion_mnist_lt_small", "sgd")
    config = config.replace(image_size=8, held_out=0.1, imbalance_factor=10.0)
    dataset = load_dataset(config, tmp_path)
    assert np.bincount(dataset.validation.labels).tolist() == [20] * 10
    assert dataset.class_counts[[0, -1]].tolist() == [180, 18]
    seen = {image.tobytes() for image in dataset.train.images}
    assert not seen & {image.tobytes() for image in dataset.validation.images}


def test_other_images_under_that_name_are_refused(tmp_path):
    write(tmp_path / "fashion_mnist", [9, 4])
    with pytest.raises(UserError, match="of 2 classes, but Fashion-MNIST has 10"):
        load_dataset(get_config("fashion_mnist_lt", "sgd"), tmp_path)


def test_without_files_it_is_said_where_they_belong(tmp_path):
    config = get_config("fashion_mnist_lt", "sgd")
    with pytest.raises(UserError, match="or put its four IDX files into .*_mnist"):
        load_dataset(config, tmp_path)


def test_characters_are_not_mirrored(tmp_path):
    folder = write(tmp_path / "letters", [20] * 3, size=28)
    config = parse(["--data", f"idx:{folder}"]).config
    assert (config.config, config.augment) == ("cifar10_lt", "affine")


@pytest.mark.slow
def test_an_epoch_trains_on_them(tmp_path):
    folder = write(tmp_path / "fashion_mnist", [120] * 10, size=12)
    flags = ["--data", f"idx:{folder}", "--config", "fashion_mnist_lt_small"]
    flags += ["--image-size", "12", "--width"]
    run_train(tmp_path / "run", *flags, "2", "--epochs", "1", "--batch-size", "8")
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    tested = json.loads(rows[-1])
    assert tested["split"] == "test" and 0 <= tested["accuracy"] <= 1
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["class_counts"] == [120] * 10
