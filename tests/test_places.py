"""Places-LT: three lists choose images of Places365."""

import io

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs focal_sam_jax[experiments]")
pytest.importorskip("tensorflow_datasets", reason="needs focal_sam_jax[data]")

import tfds_files
from PIL import Image

from experiments.configs import get_config
from experiments.data.load import load_dataset
from experiments.data.sources.tfds_records import PreparedSet
from experiments.errors import UserError

CONFIG = get_config("places_lt", "sgd")
PARTS = {"train": "train", "val": "validation", "test": "test"}


@pytest.fixture(scope="module", params=["by_letter", "by_class"])
def places(tmp_path_factory, request):
    """Makes a folder of data sets, with lists in one of two published forms."""
    folder = tmp_path_factory.mktemp("places")
    tfds_files.write_places(folder, by_class=request.param == "by_class", shards=2)
    return folder


def lines(folder, part):
    file = folder / "places_lt" / f"Places_LT_{part}.txt"
    return [line.rsplit(" ", 1) for line in file.read_text().splitlines()]


def test_the_lists_choose_images_and_classes(places):
    data = load_dataset(CONFIG, places)
    counts = [3 if c % 10 == 0 else 2 for c in range(365)]
    assert data.class_counts.tolist() == counts
    assert len(data.validation.labels) == len(data.test.labels) == 365
    assert data.class_names == tuple(tfds_files.places_names())
    for part, attribute in PARTS.items():
        labels = [int(label) for _, label in lines(places, part)]
        assert getattr(data, attribute).labels.tolist() == labels


def test_the_images_are_those_that_the_lists_name(places):
    data = load_dataset(CONFIG, places)
    for part, attribute in PARTS.items():
        subset = getattr(data, attribute)
        split = "validation" if part == "test" else "train"
        _, names = PreparedSet(places, "places_lt").open(split, key="filename")
        for (path, label), index in zip(
            lines(places, part), subset.indices, strict=True
        ):
            name = names[index].decode()
            assert name.split("/")[-1] == path.split("/")[-1]
            if part != "test":
                of_class = tfds_files.places_names()[int(label)]
                assert name == f"data_256/{of_class[0]}/{of_class}/{name[-12:]}"
    mean = np.asarray(Image.open(io.BytesIO(data.test[7]))).mean(axis=(0, 1))
    rng = np.random.default_rng(0)
    label = int(data.test.labels[7])
    expected = tfds_files.coloured_noise(label, 365, 64, rng).mean(axis=(0, 1))
    assert np.abs(mean - expected).max() < 12


def test_no_training_image_validates(places):
    data = load_dataset(CONFIG, places)
    assert not set(data.train.indices) & set(data.validation.indices)


def test_missing_lists_are_named(places, tmp_path):
    (tmp_path / "places365_small").symlink_to(places / "places365_small")
    (tmp_path / "places_lt").mkdir()
    (tmp_path / "places_lt" / "Places_LT_val.txt").write_text("a/b.jpg 0\n")
    with pytest.raises(UserError) as caught:
        load_dataset(CONFIG, tmp_path)
    message = str(caught.value)
    assert "Places_LT_train.txt and Places_LT_test.txt" in message
    assert str(tmp_path / "places_lt") in message and "_val" not in message


def test_an_image_that_is_not_there_is_named(places, tmp_path):
    (tmp_path / "places365_small").symlink_to(places / "places365_small")
    (tmp_path / "places_lt").mkdir()
    for part in PARTS:
        source = places / "places_lt" / f"Places_LT_{part}.txt"
        file = tmp_path / "places_lt" / source.name
        file.write_text(source.read_text() + "data_256/a/alley/99999999.jpg 4\n")
    with pytest.raises(UserError, match="Places_LT_train.txt names .*99999999.jpg"):
        load_dataset(CONFIG, tmp_path)
