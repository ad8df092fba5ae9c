"""Lists of image files and classes."""

import pytest

pytest.importorskip("sklearn", reason="needs focal_sam_jax[experiments]")
pytest.importorskip("PIL", reason="needs focal_sam_jax[data]")

from PIL import Image

from experiments.configs import get_config
from experiments.data.load import load_dataset
from experiments.errors import UserError

CONFIG = get_config("cifar10_lt", "sgd").replace(imbalance="natural", image_size=16)


def load(folder, **changes):
    return load_dataset(CONFIG.replace(data=f"lists:{folder}", **changes), folder)


def write_lists(folder, **lists):
    """Writes lists, and an image for every path."""
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            path = folder / line.rpartition(" ")[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (len(path.name), 0, 0)).save(path)


def test_paths_and_labels(tmp_path):
    elsewhere = tmp_path / "else where"
    write_lists(
        tmp_path,
        train=["a/x.png 1", "a/my holiday 7.png 0", f"{elsewhere}/z.png 1"],
        test=["x.png 0"],
        val=["y.png 1", "y2.png 1"],
    )
    data = load(tmp_path)
    assert data.train.labels.tolist() == [1, 0, 1]
    assert data.train.images[:, 0, 0, 0].tolist() == [5, 16, 5]
    assert data.class_counts.tolist() == [1, 2]
    assert data.class_names == ("0", "1")
    assert len(data.validation.labels) == 2 and len(data.test.labels) == 1
    on_disk = load(tmp_path, image_size=128).train
    assert on_disk.name(2) == f"{elsewhere}/z.png"
    assert on_disk.name(1) == f"{tmp_path}/a/my holiday 7.png"


@pytest.mark.parametrize("stem", ["ImageNet_LT", "iNaturalist18", "Places_LT"])
def test_published_names(tmp_path, stem):
    parts = {"train": ["a.png 0", "b.png 1"], "val": ["c.png 1"]}
    write_lists(tmp_path, **{f"{stem}_{part}": lines for part, lines in parts.items()})
    data = load(tmp_path)
    assert data.validation is None and len(data.test.labels) == 1
    write_lists(tmp_path, **{f"{stem}_test": ["d.png 1", "e.png 0"]})
    data = load(tmp_path)
    assert len(data.validation.labels) == 1 and len(data.test.labels) == 2


def test_the_plain_name_comes_first(tmp_path):
    write_lists(tmp_path, train=["a.png 0", "b.png 1"], test=["c.png 0"])
    write_lists(tmp_path, old_train=["a.png 0"], older_train=["b.png 0"])
    assert len(load(tmp_path).train.labels) == 2


def test_endings_of_other_systems(tmp_path):
    write_lists(tmp_path, train=["a.png 0", "b.png 1"], test=["c.png 0"])
    text = "\ufeffa.png 0\r\n\r\n  b.png   1 \r\n"
    (tmp_path / "train.txt").write_bytes(text.encode())
    assert load(tmp_path).train.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    "text",
    [
        "a.png\t0\nb.png\t1\n",
        "a.png,0\nb.png, 1\n",
        "# made on a Monday\na.png 0\nb.png 1\n",
        "path label\na.png 0\nb.png 1\n",
        "image_path,class_id\na.png,0\nb.png,1\n",
    ],
)
def test_lists_as_other_programs_write_them(tmp_path, text):
    write_lists(tmp_path, train=["a.png 0", "b.png 1"], test=["c.png 0"])
    (tmp_path / "train.txt").write_text(text)
    train = load(tmp_path, image_size=128).train
    assert train.labels.tolist() == [0, 1]
    assert [train.name(i) for i in (0, 1)] == [f"{tmp_path}/{n}.png" for n in "ab"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a.png 0\nb.png\n", "train.txt, line 2: .*'b.png'"),
        ("a.png 0\n\nb.png one\n", "train.txt, line 3: .*'b.png one'"),
        ("a.png 0\nb.png -1\n", "line 2: .*'b.png -1'"),
        ("a.png 0\nb.png 1.0\n", "line 2"),
        ("a.png 0\nb.png ²\n", "line 2"),
        ("5\n", "line 1: .*'5'"),
        ("", "train.txt is empty"),
        ("\n \n", "train.txt is empty"),
        ("a.png 0\nb.png 2\n", "image of class 2 but none of class 1"),
        ("a.png 0\nb.png 1000000000\n", "class 1000000000 but none of class 1"),
        ("a.png 0\nb.png 99999999999\n", "line 2: class number 99999999999 is too"),
        ("a.png 0\nb\0.png 1\n", "line 2: expected a path"),
        ("a.png 0\npath,label\n", "line 2: expected a path"),
        ("a.png 0\nb.png 0\n", "needs at least 2 classes, got 1"),
    ],
)
def test_lines_that_do_not_suit_are_explained(tmp_path, text, words):
    write_lists(tmp_path, train=["a.png 0", "b.png 1"], test=["c.png 0"])
    (tmp_path / "train.txt").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=words):
        load(tmp_path)


def test_a_class_that_nothing_is_learned_from_is_explained(tmp_path):
    write_lists(tmp_path, train=["a.png 0", "b.png 1"], test=["c.png 7"])
    with pytest.raises(UserError, match="test split .* of class 7; .* classes 0 to 1"):
        load(tmp_path)


def test_a_file_that_is_no_text_is_explained(tmp_path):
    write_lists(tmp_path, train=["a.png 0", "b.png 1"], test=["c.png 0"])
    (tmp_path / "test.txt").write_bytes(b"\xff\xfe\x00 0\n")
    with pytest.raises(UserError, match="test.txt cannot be read"):
        load(tmp_path)


def test_the_first_image_is_looked_for_at_once(tmp_path):
    write_lists(tmp_path, train=["a.png 0", "b.png 1"], test=["c.png 0"])
    (tmp_path / "c.png").unlink()
    with pytest.raises(UserError) as caught:
        load(tmp_path, image_size=128)
    message = str(caught.value)
    assert str(tmp_path / "c.png") in message and "test.txt" in message
    assert f"relative to {tmp_path}" in message


@pytest.mark.parametrize("image_size", [32, 128])
def test_images_to_learn_from_are_looked_for_at_once(tmp_path, image_size):
    write_lists(tmp_path, train=["a.png 0", "b.png 1"], test=["c.png 0"])
    (tmp_path / "b.png").unlink()
    with pytest.raises(UserError, match=f"{tmp_path / 'b.png'} cannot be read"):
        load(tmp_path, image_size=image_size)


def test_lists_that_are_missing_or_too_many_are_explained(tmp_path):
    with pytest.raises(UserError, match="must name an existing folder"):
        load(tmp_path / "nothing")
    with pytest.raises(UserError, match="no list train.txt"):
        load(tmp_path)
    write_lists(tmp_path, train=["a.png 0", "b.png 1"])
    with pytest.raises(UserError, match="neither a test nor a validation split"):
        load(tmp_path)
    write_lists(tmp_path, A_test=["a.png 0"], B_test=["b.png 1"])
    with pytest.raises(UserError, match="for test: A_test.txt, B_test.txt"):
        load(tmp_path)
