"""Tests of a trained network's predictions for images."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("orbax.checkpoint", reason="needs focal_sam_jax[experiments]")
pytest.importorskip("PIL", reason="needs focal_sam_jax[data]")

from PIL import Image
from rich.console import Console
from tiny_runs import run_train

from experiments import devices
from experiments.data.load import load_dataset
from experiments.errors import UserError
from experiments.predict import Job, run
from experiments.sharpness.measure import open_subject
from experiments.training.trained import load_run

NETWORK = ["--model", "resnet_digits", "--width", 2]
COLOURS = {"blue": (0, 0, 200), "green": (0, 200, 0), "red": (200, 0, 0)}


def write(folder, counts, seed):
    """Writes noisy images, one colour per class, various sizes."""
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            noise = rng.integers(0, 50, (*rng.integers(10, 20, 2), 3))
            pixels = (noise + COLOURS[name]).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colours")
    write(folder / "train", {"red": 60, "green": 30, "blue": 20}, seed=0)
    write(folder / "test", {"red": 5, "green": 4, "blue": 3}, seed=1)
    return folder


@pytest.fixture(scope="module")
def run_dir(images, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "colours"
    run_train(
        run_dir, *NETWORK, "--data", f"folder:{images}", "--epochs", 4, "--ema", 0.5
    )
    return run_dir


def predict(run_dir, *places, out, **options):
    console = Console(record=True, width=200)
    run(Job(run_dir, places, out, **options), console)
    with out.open(newline="") as file:
        return list(csv.reader(file)), console.export_text()


def test_a_labelled_folder_is_judged_as_the_run_was(images, run_dir, tmp_path):
    out = tmp_path / "new" / "out.csv"
    rows, said = predict(run_dir, images / "test", out=out, probabilities=True)
    names = ["blue", "green", "red"]
    header, *rows = rows
    assert header[:3] == ["file", "predicted", "probability"]
    assert header[3:] == [f"probability of {name}" for name in names]
    assert len(rows) == 12
    assert rows[0][0] == str(images / "test" / "blue" / "0.png")
    for row in rows:
        of_classes = np.array(row[3:], float)
        assert of_classes.sum() == pytest.approx(1, abs=1e-5)
        assert names[of_classes.argmax()] == row[1]
        assert of_classes.max() == pytest.approx(float(row[2]))
    confusion = np.zeros((3, 3), int)
    for row in rows:
        name = row[0].split("/")[-2]
        confusion[names.index(name), names.index(row[1])] += 1
    kept = np.load(run_dir / "confusion.npz")["confusion"]
    np.testing.assert_array_equal(confusion, kept)
    assert f"{np.trace(confusion) / 12:.1%}" in said
    assert (tmp_path / "new" / "out_confusion_matrix.png").exists()


def test_single_files_and_folders_without_classes(images, run_dir, tmp_path):
    one = images / "test" / "red" / "3.png"
    (tmp_path / "mixed" / "deep").mkdir(parents=True)
    (tmp_path / "mixed" / "deep" / "x.png").write_bytes(one.read_bytes())
    (tmp_path / "mixed" / "readme.md").touch()
    rows, said = predict(run_dir, one, tmp_path / "mixed", out=tmp_path / "out.csv")
    assert [row[0] for row in rows[1:]] == [str(one), f"{tmp_path}/mixed/deep/x.png"]
    assert rows[1][1:] == rows[2][1:] and len(rows[1]) == 3
    assert "1 other file left out" in said
    assert "ccuracy" not in said


def test_unreadable_images_are_named_and_the_others_predicted(
    images, run_dir, tmp_path
):
    red = tmp_path / "red"
    shutil.copytree(images / "test" / "red", red)
    (red / "1.png").write_bytes((red / "1.png").read_bytes()[:-40])
    (red / "text.png").write_text("no image")
    rows, said = predict(run_dir, red, out=tmp_path / "out.csv")
    assert [Path(row[0]).stem for row in rows[1:]] == ["0", "2", "3", "4"]
    assert "2 of 6 files cannot be read as images and are left out: " in said
    assert f"{red}/1.png, {red}/text.png." in said
    assert "Accuracy on 4 images" in said  # the folder has the name of a class


def test_from_python(images, run_dir):
    network = load_run(run_dir)
    paths = sorted((images / "test").rglob("*.png"))
    found = network(paths)
    assert network.class_names == ("blue", "green", "red")
    assert found.shape == (12, 3) and found.dtype == np.float32
    np.testing.assert_allclose(network(paths[4:5]), found[4:5], rtol=1e-4)
    dataset = load_dataset(network.config, images)
    parts = list(network.batches(ImageSource(dataset.test)))
    np.testing.assert_allclose(np.concatenate(parts), found, rtol=1e-4)


def test_a_run_is_analysed_on_images_that_moved_but_not_on_others(
    images, run_dir, tmp_path
):
    moved = shutil.copytree(images, tmp_path / "moved")

    def losses(*data):
        subject = open_subject(run_dir, tmp_path, devices.device_mesh(1), *data)
        return subject.losses.values(subject.params)

    np.testing.assert_array_equal(losses(f"folder:{moved}"), losses())
    (moved / "train" / "red" / "7.png").unlink()
    with pytest.raises(UserError, match="class red had 60 images and has 59"):
        losses(f"folder:{moved}")


class ImageSource:
    """Images in memory as a source, encoded without loss."""

    upright = False

    def __init__(self, split):
        self.labels, self._images = split.labels, split.images

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        from io import BytesIO

        encoded = BytesIO()
        Image.fromarray(self._images[index]).save(encoded, "PNG")
        return encoded.getvalue()

    def name(self, index):
        return str(index)


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (["nowhere"], "nowhere is neither a file nor a folder"),
        ([], "which images"),
        (["empty"], "no images in .*empty"),
        (["broken.png"], "broken.png cannot be read as an image"),
    ],
)
def test_mistakes_are_explained_and_nothing_is_written(
    places, words, run_dir, tmp_path
):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"no image")
    places = tuple(tmp_path / place for place in places)
    with pytest.raises(UserError, match=words):
        predict(run_dir, *places, out=tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_nothing_is_overwritten(images, run_dir, tmp_path):
    (tmp_path / "out.csv").write_text("mine")
    with pytest.raises(UserError, match="out.csv already exists"):
        predict(run_dir, images, out=tmp_path / "out.csv")
    with pytest.raises(UserError, match="contains no run"):
        predict(tmp_path, images, out=tmp_path / "new" / "other.csv")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="already exists"):
        predict(run_dir, images, out=Path("."))
    with pytest.raises(UserError, match="cannot make the folder .*out.csv for --out"):
        predict(run_dir, images, out=tmp_path / "out.csv" / "below.csv")


@pytest.mark.slow
def test_streamed_images_are_predicted_as_they_were_judged(images, tmp_path):
    pytest.importorskip("grain", reason="needs focal_sam_jax[data]")
    run_dir = tmp_path / "run"
    options = ["--data", f"folder:{images}", "--epochs", 1, "--image-size", 72]
    run_train(run_dir, *NETWORK, *options)
    rows, _ = predict(run_dir, images / "test", out=tmp_path / "out.csv")
    names = ["blue", "green", "red"]
    confusion = np.zeros((3, 3), int)
    for path, answer, _ in rows[1:]:
        confusion[names.index(path.split("/")[-2]), names.index(answer)] += 1
    kept = np.load(run_dir / "confusion.npz")["confusion"]
    np.testing.assert_array_equal(confusion, kept)
