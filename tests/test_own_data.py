"""Tests of a folder of own images, from reading it to a trained network."""

import io
import json
import os
import shutil

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs focal_sam_jax[experiments]")
pytest.importorskip("PIL", reason="needs focal_sam_jax[data]")

from PIL import Image
from tiny_runs import FLAGS, run_train

from experiments.configs.own_data import own_config
from experiments.data.load import load_dataset
from experiments.data.sources import unreadable
from experiments.errors import UserError
from experiments.figures import run as figures
from experiments.records.manifest import read_manifest
from experiments.train import parse


def write(folder, counts, size=(28, 28), mode="RGB"):
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 255, (size[1], size[0], 3), np.uint8)
            image = Image.fromarray(pixels).convert(mode)
            image.save(folder / name / f"{i}.png")
    return f"folder:{folder}"


def chosen(class_counts, size, *, clip=False, image_size=None, method="focal_sam"):
    return own_config(
        class_counts, size, method, None, clip=clip, image_size=image_size
    )


def test_small_images_are_held_in_memory_at_their_own_size(tmp_path):
    data = write(tmp_path, {"a": 60, "b": 6, "c": 3}, size=(30, 28), mode="L")
    config = parse(["--data", data]).config
    assert (config.config, config.model) == ("cifar10_lt", "resnet32")
    assert (config.image_size, config.in_memory) == (28, True)
    assert (config.data, config.imbalance) == (data, "natural")
    assert (config.rho, config.gamma, config.lam) == (0.2, 3.0, 0.5)
    dataset = load_dataset(config, tmp_path)
    assert dataset.train.images.shape[1:] == (28, 28, 3)


@pytest.mark.parametrize(
    ("size", "wanted"), [(64, 64), (65, 96), (100, 128), (200, 224), (3000, 224)]
)
def test_larger_images_train_a_larger_network(size, wanted):
    config = chosen([5000, 500, 50], size)
    assert config.image_size == wanted
    assert config.model == ("resnet32" if wanted == 64 else "resnet50")
    assert config.augment == ("crop_flip" if wanted == 64 else "resized_crop_jitter")


@pytest.mark.parametrize(
    ("class_counts", "size", "recipe"),
    [
        ([100] * 20, 32, "cifar10_lt"),
        ([100] * 21, 32, "cifar100_lt"),
        ([100] * 1000, 300, "imagenet_lt"),
        ([100] * 1001, 300, "inaturalist18"),
    ],
)
def test_the_recipe_is_that_of_as_many_classes(class_counts, size, recipe):
    assert chosen(class_counts, size).config == recipe
    with_clip = chosen(class_counts, size, clip=True)
    assert with_clip.config == f"clip_{recipe}" and with_clip.model == "clip"
    assert with_clip.network_size == 224


def test_few_images_make_small_batches_and_many_images_few_epochs():
    few = chosen([60, 20, 6], 28)
    assert few.batch_size == 8 and few.epochs == 200
    assert few.learning_rate == pytest.approx(0.1 * 8 / 64)
    many = chosen([1000] * 1000, 300)
    assert many.batch_size == 256 and many.epochs == 90
    assert chosen([400] * 1000, 300).epochs == 100
    assert chosen([400] * 1000, 300).rho_milestones == (80,)


def test_imbsam_has_a_tail_in_any_data():
    assert chosen([500, 50, 5], 28, method="imbsam").tail_threshold == 20
    assert chosen([500, 300, 60, 50], 28, method="imbsam").tail_threshold == 300


def test_what_is_given_goes_before_what_is_chosen(tmp_path):
    data = write(tmp_path, {"a": 20, "b": 6}, size=(100, 80))
    config = parse(["--data", data, "--image-size", "32"]).config
    assert (config.image_size, config.augment, config.model) == (
        32,
        "crop_flip",
        "resnet32",
    )
    config = parse(["--data", data, "--epochs", "20", "--batch-size", "4"]).config
    assert (config.image_size, config.epochs, config.batch_size) == (96, 20, 4)
    config = parse(["--data", data, "--config", "cifar100_lt"]).config
    assert (config.config, config.batch_size) == ("cifar100_lt", 64)


def test_the_hash_is_of_names_and_sizes_wherever_they_lie(tmp_path):
    def hash_of(folder):
        config = parse(["--data", f"folder:{folder}"]).config
        return load_dataset(config, tmp_path).train_hash

    write(tmp_path / "here", {"a": 20, "b": 6})
    first = hash_of(tmp_path / "here")
    there = shutil.copytree(tmp_path / "here", tmp_path / "there")
    assert hash_of(there) == first

    changed = {first}
    (there / "b").rename(there / "0")
    changed.add(hash_of(there))
    (there / "0").rename(there / "b")
    for source, target in [("a", "c"), ("b", "a"), ("c", "b")]:
        (there / source).rename(there / target)
    changed.add(hash_of(there))
    write(there, {"d": 3})
    changed.add(hash_of(there))
    assert len(changed) == 4


@pytest.mark.slow
def test_it_trains_and_says_what_was_chosen(tmp_path):
    data = write(tmp_path / "in", {"a": 30, "b": 8})
    (tmp_path / "in" / "a" / "notes.txt").touch()
    options = ["--data", data, "--model", "resnet_digits", "--width", "2"]
    said = run_train(tmp_path / "run", *options, "--epochs", "1")
    assert "8 of 38 images, a fifth of every class, are drawn for the test" in said
    assert "Left out, because they are not images of a class: 1 .txt." in said
    assert "Classes, in this order: a, b. They have 24 to 6 training images" in said
    assert "training images and 6 to 2 test images." in said
    assert "Settings of cifar10_lt, adapted to the data" in said
    assert "30 images in 2 classes, 8 to test on, 1 epoch of 3 steps" in said
    assert "--model resnet_digits --image-size 28 --augment crop_flip" in said
    manifest = read_manifest(tmp_path / "run")
    assert manifest["config"]["image_size"] == 28
    assert len(manifest["train_hash"]) == 64
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])


def test_copies_in_another_class_or_part_are_counted(tmp_path):
    write(tmp_path / "train", {"a": 4, "b": 3})
    write(tmp_path / "test", {"a": 2, "b": 2}, size=(28, 29))
    one, other = tmp_path / "train" / "a" / "0.png", tmp_path / "train" / "b" / "1.png"
    (tmp_path / "test" / "a" / "same.png").write_bytes(one.read_bytes())
    (tmp_path / "test" / "b" / "same.png").write_bytes(other.read_bytes())
    (tmp_path / "train" / "b" / "same.png").write_bytes(one.read_bytes())
    config = parse(["--data", f"folder:{tmp_path}"]).config
    splits, classes = load_dataset(config, tmp_path, tell=print).notes
    copies = [str(one), str(tmp_path / "train" / "b" / "same.png")]
    copies.append(str(tmp_path / "test" / "a" / "same.png"))
    assert splits.startswith("2 images are in more than one split: ")
    assert f"{other} = {tmp_path / 'test' / 'b' / 'same.png'}" in splits
    assert classes == f"1 image is in more than one class: {' = '.join(copies)}."


def test_dark_images_of_16_bits_are_named(tmp_path):
    rng = np.random.default_rng(0)
    for largest, dark in ((4096, True), (60000, False)):
        folder = tmp_path / str(largest)
        for name in ("a/1", "a/2", "b/1", "b/2"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, largest, (20, 20)).astype(np.uint16)
            Image.fromarray(pixels).save(folder / f"{name}.png")
        config = parse(["--data", f"folder:{folder}"]).config
        notes = " ".join(load_dataset(config, tmp_path, tell=print).notes)
        assert ("of 65535 become nearly black" in notes) == dark


@pytest.mark.by_default(size=(100,))
@pytest.mark.parametrize("size", [28, 100])
def test_all_unreadable_files_are_named_or_left_out_at_once(tmp_path, size):
    data = write(tmp_path / "in", {"a": 20, "b": 6}, size=(size, size))
    whole = (tmp_path / "in" / "b" / "0.png").read_bytes()
    bad = {"a/text.png": b"x", "b/empty.jpg": b""}
    bad |= {"b/cut.png": whole[:20], "b/half.png": whole[: len(whole) // 2]}
    photo = io.BytesIO()
    Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(photo, "JPEG")
    bad["a/half.jpg"] = photo.getvalue()[:-20]
    for name, content in bad.items():
        (tmp_path / "in" / name).write_bytes(content)
    config = parse(["--data", data]).config
    with pytest.raises(UserError, match="5 files that cannot be read") as refused:
        load_dataset(config, tmp_path, tell=print)
    assert all(name in str(refused.value) for name in bad)
    assert "--skip-unreadable" in str(refused.value)
    assert "BytesIO" not in str(refused.value)

    config = parse(["--data", data, "--skip-unreadable"]).config
    for tell in (print, None):  # None as in an analysis
        dataset = load_dataset(config, tmp_path, tell=tell)
        assert len(dataset.train.labels) + len(dataset.test.labels) == 26
    assert any("5 files that cannot be read" in note for note in dataset.notes)
    with pytest.raises(UserError, match="--skip-unreadable is for files of your own"):
        load_dataset(config.replace(data="cifar10"), tmp_path)


def test_a_test_split_without_a_readable_image_is_refused(tmp_path):
    data = write(tmp_path / "in", {"train/a": 5, "train/b": 5})
    for name in "ab":
        (tmp_path / "in" / "test" / name).mkdir(parents=True)
        (tmp_path / "in" / "test" / name / "0.png").write_bytes(b"x")
    config = parse(["--data", data, "--skip-unreadable"]).config
    with pytest.raises(UserError, match="The test split of .* has no image"):
        load_dataset(config, tmp_path)


def test_a_large_set_is_checked_once_and_progress_is_said(tmp_path, monkeypatch):
    data = write(tmp_path / "in", {"a": 9, "b": 6})
    config, read, said = parse(["--data", data]).config, [], []
    monkeypatch.setattr(unreadable, "_GOOD", tmp_path / "cache" / "readable")
    monkeypatch.setattr(unreadable, "_MANY", 2)
    monkeypatch.setattr(unreadable, "_CACHED", 2)
    usual = unreadable.check_image_file
    monkeypatch.setattr(
        unreadable, "check_image_file", lambda path: read.append(path) or usual(path)
    )
    for _ in range(2):
        load_dataset(config, tmp_path, tell=said.append)
        assert len(read) == 15
    assert "train: checked 2 of" in " ".join(said)
    os.utime(tmp_path / "in" / "a" / "0.png")  # only its split is read again
    load_dataset(config, tmp_path, tell=said.append)
    assert 15 < len(read) < 30

    (tmp_path / "in" / "a" / "0.png").write_bytes(b"x")
    for _ in range(2):
        with pytest.raises(UserError, match="1 file that cannot be read"):
            load_dataset(config, tmp_path, tell=said.append)


@pytest.mark.slow
def test_a_figure_that_fails_costs_no_result(tmp_path, monkeypatch):
    def fails(*args):
        raise RuntimeError("no ink")

    monkeypatch.setattr(figures, "confusion_matrix", fails)
    said = run_train(tmp_path / "run", *FLAGS, "--epochs", "1", draws=True)
    assert "A figure could not be drawn (RuntimeError: no ink)." in said
    assert "Test accuracy" in said and (tmp_path / "run" / "confusion.npz").exists()


@pytest.mark.parametrize("kind", ["folder", "lists"])
def test_what_is_not_there_is_explained_at_once(kind, tmp_path):
    with pytest.raises(UserError, match="must name an existing folder"):
        parse(["--data", f"{kind}:{tmp_path / 'nothing'}"])


@pytest.mark.parametrize("place", ["gs://bucket/dir", "s3://bucket/dir"])
def test_a_remote_store_is_refused(place):
    for options in (
        ["--data", f"folder:{place}"],
        ["--data", "tfds:flowers", "--data-dir", place],
    ):
        with pytest.raises(UserError, match="is remote, but only local folders"):
            parse(options)
