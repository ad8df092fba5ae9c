"""Folders of images, one folder a class."""

import os

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs focal_sam_jax[experiments]")
pytest.importorskip("PIL", reason="needs focal_sam_jax[data]")

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from experiments.configs import get_config
from experiments.data.load import load_dataset
from experiments.data.sources.files import IMAGENET_MEAN, IMAGENET_STD
from experiments.data.sources.folder import from_folder
from experiments.errors import UserError

CONFIG = get_config("cifar10_lt", "sgd").replace(imbalance="natural", image_size=16)


def write_images(folder, counts, ending=".png"):
    """Writes images of 20 by 30 pixels; red is the index in the class."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            image = Image.new("RGB", (20, 30), (i, 50, len(name)))
            image.save(folder / name / f"{i:03d}{ending}")


def load(folder, **changes):
    return load_dataset(CONFIG.replace(data=f"folder:{folder}", **changes), folder)


def names(source):
    return [source.name(i) for i in range(len(source.labels))]


@pytest.mark.parametrize(
    ("parts", "validation", "test"),
    [
        (["test"], None, "test"),
        (["val"], None, "val"),
        (["validation"], None, "validation"),
        (["val", "test"], "val", "test"),
        (["validation", "test"], "validation", "test"),
    ],
)
def test_which_part_is_tested_on(tmp_path, parts, validation, test):
    sizes = {"train": 5, "val": 3, "validation": 3, "test": 2}
    for part in ["train", *parts]:
        write_images(tmp_path / part, {"cat": sizes[part], "ant": 1})
    data = load(tmp_path)
    assert data.class_names == ("ant", "cat")
    assert data.class_counts.tolist() == [1, 5]
    assert len(data.test.labels) == sizes[test] + 1
    if validation is None:
        assert data.validation is None
    else:
        assert len(data.validation.labels) == sizes[validation] + 1


def test_images_are_decoded_and_cut_to_size(tmp_path):
    write_images(tmp_path / "train", {"a": 2, "bb": 3})
    write_images(tmp_path / "test", {"bb": 1})
    data = load(tmp_path)
    assert data.train.images.shape == (5, 16, 16, 3)
    assert data.train.images[:, 8, 8].tolist() == [
        [0, 50, 1],
        [1, 50, 1],
        [0, 50, 2],
        [1, 50, 2],
        [2, 50, 2],
    ]
    assert data.train.labels.tolist() == [0, 0, 1, 1, 1]
    np.testing.assert_array_equal(data.mean, IMAGENET_MEAN)
    np.testing.assert_array_equal(data.std, IMAGENET_STD)


def test_large_images_stay_on_disk(tmp_path):
    write_images(tmp_path / "train", {"a": 2, "b": 3})
    write_images(tmp_path / "test", {"b": 1})
    data = load(tmp_path, image_size=128)
    assert data.train.name(4) == str(tmp_path / "train" / "b" / "002.png")
    assert data.train[4] == (tmp_path / "train" / "b" / "002.png").read_bytes()


@pytest.mark.parametrize(
    "ending",
    [".JPG", ".jpeg", ".jfif", ".Png", ".bmp", ".webp", ".tif", ".TIFF", ".gif"],
)
def test_file_endings(tmp_path, ending):
    write_images(tmp_path / "train", {"a": 1, "b": 1}, ending)
    write_images(tmp_path / "val", {"a": 1}, ending)
    assert load(tmp_path).train.images.shape == (2, 16, 16, 3)


def test_what_is_no_image_is_passed_over(tmp_path):
    write_images(tmp_path / "train", {"a": 2, "b": 1, ".hidden": 2})
    write_images(tmp_path / "test", {"a": 1, ".git": 2})
    (tmp_path / "train" / "a" / "notes.txt").write_text("of no class")
    (tmp_path / "train" / "a" / "._000.png").write_text("of some other system")
    (tmp_path / "train" / "README").write_text("")
    (tmp_path / "test" / "b").mkdir()
    data = load(tmp_path)
    assert data.class_names == ("a", "b") and data.class_counts.tolist() == [2, 1]
    assert len(data.test.labels) == 1
    left_out, untested = data.notes
    assert left_out == "Left out, because they are not images of a class: 1 .txt."
    assert untested == "1 class has no test image, so no accuracy: b."


def test_what_lies_deeper_is_of_its_class_and_what_lies_beside_is_counted(tmp_path):
    write_images(tmp_path, {"a/2019/may": 2, "a/2020": 1, "a": 1, "b": 3})
    write_images(tmp_path, {"__MACOSX/a": 2, "a/__MACOSX": 1})
    write_images(tmp_path, {".": 2})
    (tmp_path / "b" / "sub").mkdir()
    (tmp_path / "b" / "sub" / "Thumbs.db").touch()
    (tmp_path / "b" / "licence").touch()
    data = load(tmp_path, image_size=128)
    assert data.class_names == ("a", "b")
    both = names(data.train) + names(data.test)
    assert sum(f"{tmp_path}/a/" in name for name in both) == 4
    assert sum(f"{tmp_path}/b/" in name for name in both) == 3
    drawn, left_out = data.notes
    assert drawn.startswith("2 of 7 images, a fifth of every class, are drawn")
    for words in ("1 .db", "1 without an extension", "2 outside the class folders"):
        assert words in left_out


@pytest.mark.parametrize(
    "parts",
    [("Train", "Test"), ("training", "testing"), ("TRAIN", "valid"), ("train", "dev")],
)
def test_usual_names_of_the_parts(tmp_path, parts):
    write_images(tmp_path / parts[0], {"a": 2, "b": 1})
    write_images(tmp_path / parts[1], {"a": 1})
    data = load(tmp_path)
    assert data.class_counts.tolist() == [2, 1] and len(data.test.labels) == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_a_fifth_is_tested_on_where_there_are_classes_only(tmp_path, seed):
    counts = {"a": 10, "b": 2, "c": 1, "d": 7}
    write_images(tmp_path, counts)
    data = load(tmp_path, image_size=128, subset_seed=seed)
    assert data.validation is None
    assert np.bincount(data.test.labels, minlength=4).tolist() == [2, 1, 0, 1]
    assert data.class_counts.tolist() == [8, 1, 1, 6]
    both = names(data.train) + names(data.test)
    assert len(both) == len(set(both)) == sum(counts.values())
    again = load(tmp_path, image_size=128, subset_seed=seed)
    assert names(again.test) == names(data.test)
    other = load(tmp_path, image_size=128, subset_seed=seed + 10)
    assert names(other.test) != names(data.test)


@given(st.lists(st.integers(1, 12), min_size=2, max_size=4), st.integers(0, 3))
@settings(max_examples=15, deadline=None)
def test_dividing_loses_nothing(tmp_path_factory, counts, seed):
    folder = tmp_path_factory.mktemp("divided")
    for c, count in enumerate(counts):
        (folder / f"class_{c}").mkdir()
        for i in range(count):
            (folder / f"class_{c}" / f"{i}.jpg").touch()
    if max(counts) == 1:
        with pytest.raises(UserError, match="one image per class"):
            from_folder(folder, seed)
        return
    parts = from_folder(folder, seed)
    both = names(parts.train) + names(parts.test)
    assert len(both) == len(set(both)) == sum(counts)
    assert set(parts.train.labels.tolist()) == set(range(len(counts)))


def test_a_name_that_is_no_text_becomes_one(tmp_path):
    name = os.fsdecode(b"gr\xfcn")
    write_images(tmp_path, {name: 2, "blau": 2})
    data = load(tmp_path)
    assert data.class_names == ("blau", "gr\\udcfcn")
    assert data.class_counts.tolist() == [1, 1]


def test_the_tail_of_a_folder_can_be_cut(tmp_path):
    write_images(tmp_path / "train", {"a": 20, "b": 20, "c": 20})
    write_images(tmp_path / "test", {"a": 1})
    data = load(tmp_path, imbalance="exp", imbalance_factor=10.0)
    assert data.class_counts.tolist() == [20, 6, 2]
    assert np.bincount(data.train.labels).tolist() == [20, 6, 2]


def test_a_tail_that_the_classes_do_not_have_is_explained(tmp_path):
    write_images(tmp_path / "train", {"a": 20, "rare": 1})
    write_images(tmp_path / "test", {"a": 1})
    with pytest.raises(UserError, match=r"needs 10 .* 1 \(rare\), which has 1: .*natu"):
        load(tmp_path, imbalance="exp", imbalance_factor=2.0)


def make(*paths):
    def build(folder):
        for path in paths:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            if path.endswith("/"):
                (folder / path).mkdir(exist_ok=True)
            else:
                (folder / path).touch()

    return build


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (make(), "contains no folders of images"),
        (make("photo.jpg"), "contains no folders of images"),
        (make("a/1.jpg"), "one image per class"),
        (make("a/1.jpg", "b/x.txt"), "b contains no images"),
        (make("train/a/1.jpg", "train/b/"), "train/b contains no images"),
        (make("train/a/1.jpg", "train/b/1.jpg"), "neither a test nor a validation"),
        (make("train/a/1.jpg", "test/"), "test contains no images"),
        (make("train/1.jpg", "test/a/1.jpg"), "train contains no folders"),
        (make("test/a/1.jpg"), "no folder train"),
        (make("train/a/1.jpg", "val/a/1.jpg", "validation/a/1.jpg"), "both val and"),
        (make("train/a/1.jpg", "Train/a/1.jpg"), "both Train and train"),
        (make("train/a/1.jpg", "test/b/1.jpg"), "test/b is a class .* classes are a"),
        (make("train/a/1.jpg", "test/a/1.jpg"), "needs at least 2 classes, got 1"),
    ],
)
def test_folders_that_do_not_suit_are_explained(tmp_path, build, words):
    build(tmp_path)
    with pytest.raises(UserError, match=words):
        load(tmp_path, image_size=128)


def test_what_is_no_folder_is_explained(tmp_path):
    for path in (tmp_path / "nothing", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match=f"folder:{path} must name an existing"):
            load(path)
    with pytest.raises(UserError, match="needs a path or a name after the colon"):
        load("")


def test_a_damaged_image_is_named(tmp_path):
    write_images(tmp_path / "train", {"a": 2, "b": 1})
    write_images(tmp_path / "test", {"a": 1})
    (tmp_path / "train" / "a" / "001.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match="train/a/001.png"):
        load(tmp_path)


def test_an_image_that_goes_away_is_named(tmp_path):
    write_images(tmp_path / "train", {"a": 2, "b": 1})
    write_images(tmp_path / "test", {"a": 1})
    train = load(tmp_path, image_size=128).train
    (tmp_path / "train" / "a" / "001.png").unlink()
    with pytest.raises(UserError, match="train/a/001.png cannot be read"):
        train[1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    write_images(tmp_path / "train", {"a": 2, "b": 1})
    write_images(tmp_path / "test", {"a": 1})
    (tmp_path / "train" / "b").chmod(0)
    try:
        with pytest.raises(UserError, match="train/b cannot be read"):
            load(tmp_path)
    finally:
        (tmp_path / "train" / "b").chmod(0o700)
