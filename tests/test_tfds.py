"""Tests of reading TFDS's data: both formats, several processes, errors."""

import io
import multiprocessing
import operator
import os
import pickle
import shutil
import threading

import numpy as np
import pytest

pytest.importorskip("sklearn", reason="needs focal_sam_jax[experiments]")
pytest.importorskip("tensorflow_datasets", reason="needs focal_sam_jax[data]")

import tfds_files
from PIL import Image
from tfrecord_files import masked_checksum

from experiments.data.sources.label_cache import CACHE_FOLDER
from experiments.data.sources.tfds_records import PreparedSet
from experiments.data.sources.tfrecord import TFRecordFiles, find_records
from experiments.errors import UserError

FORMATS = ["array_record", "tfrecord"]


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """Folders of data sets with the same CIFAR-10, by format."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in FORMATS}
    for kind, folder in folders.items():
        tfds_files.write_cifar(folder, "cifar10", 6, 2, file_format=kind, shards=3)
    return folders


@pytest.fixture
def own_cifar(cifar, tmp_path):
    """Makes a copy for one test to change."""

    def copy(kind):
        shutil.copytree(cifar[kind] / "cifar10", tmp_path / "cifar10")
        return tmp_path

    return copy


def shard(data_dir, number=1):
    files = sorted((data_dir / "cifar10" / "3.0.2").glob("*train*record-*"))
    return files[number]


def open_train(data_dir, data="cifar10", key="id"):
    return PreparedSet(data_dir, data).open("train", key)


def test_both_formats_have_the_same_content(cifar):
    (array, array_ids), (record, record_ids) = (open_train(cifar[k]) for k in FORMATS)
    assert type(array.records) is not type(record.records)
    assert array_ids.tolist() == record_ids.tolist()
    assert array.labels.tolist() == record.labels.tolist()
    assert len(array) == len(record) == 60
    assert [array[i] for i in range(60)] == [record[i] for i in range(60)]
    assert len(set(array_ids.tolist())) == 60


@pytest.mark.parametrize("kind", FORMATS)
def test_images_are_what_was_written(cifar, kind):
    images, ids = open_train(cifar[kind])
    labels = tfds_files.cifar_labels(10, 6, 0)
    rng = np.random.default_rng(0)
    written = [tfds_files.coloured_noise(c, 10, 32, rng) for c in labels.tolist()]
    for index, name in enumerate(ids.tolist()):
        place = int(name.removeprefix(b"train_"))
        assert images.labels[index] == labels[place]
        pixels = np.asarray(Image.open(io.BytesIO(images[index])))
        np.testing.assert_array_equal(pixels, written[place])


@pytest.mark.parametrize("kind", FORMATS)
def test_a_source_is_a_sequence(cifar, kind):
    images, _ = open_train(cifar[kind])
    assert len(list(images)) == len(images) == 60
    assert images[np.int64(59)] == images[-1]
    with pytest.raises(IndexError):
        images[60]


@pytest.mark.parametrize("kind", FORMATS)
def test_other_processes_read_a_pickled_source(cifar, kind):
    images, _ = open_train(cifar[kind])
    first = images[0]  # its files are open when it is pickled
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        indices = [0, 7, 59, 30]
        read = pool.starmap(operator.getitem, [(images, i) for i in indices])
    assert read == [images[i] for i in indices] and read[0] == first
    assert len(pickle.dumps(images)) < 10_000


@pytest.mark.parametrize("kind", FORMATS)
def test_threads_share_a_source(cifar, kind):
    images, _ = open_train(cifar[kind])
    expected = [images[i] for i in range(60)]
    shared, _ = open_train(cifar[kind])
    wrong = []

    def read(start):
        for i in range(start, start + 300):
            if shared[i * 7 % 60] != expected[i * 7 % 60]:
                wrong.append(i)

    threads = [threading.Thread(target=read, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("missing", [1, 3000, 9000])
def test_a_file_that_was_cut_off_is_named(own_cifar, missing):
    data_dir = own_cifar("tfrecord")
    path = shard(data_dir)
    os.truncate(path, path.stat().st_size - missing)
    with pytest.raises(UserError) as caught:
        open_train(data_dir)
    assert str(path) in str(caught.value) and "in the middle" in str(caught.value)


def test_a_file_cut_between_records_is_named(own_cifar):
    data_dir = own_cifar("tfrecord")
    path = shard(data_dir)
    _, start, length = find_records([str(path)], [20])[18].tolist()
    os.truncate(path, start + length + 4)
    with pytest.raises(UserError, match=f"{path} contains 19 records.* lists 20"):
        open_train(data_dir)


def test_a_file_cut_after_it_was_opened_is_named(own_cifar):
    data_dir = own_cifar("tfrecord")
    images, _ = open_train(data_dir)
    path = shard(data_dir, 2)
    os.truncate(path, 100)
    with pytest.raises(UserError, match=str(path)):
        images[59]


def test_a_damaged_array_record_file_is_named(own_cifar):
    data_dir = own_cifar("array_record")
    os.truncate(shard(data_dir), 70_000)
    with pytest.raises(UserError, match="record 20 of .*cifar10/3.0.2, split train"):
        open_train(data_dir)


@pytest.mark.parametrize("place", ["length", "label", "image", "checksum"])
def test_one_flipped_bit_in_a_tfrecord_file_is_found(own_cifar, place):
    data_dir = own_cifar("tfrecord")
    path = shard(data_dir)
    _, start, length = find_records([str(path)], [20])[7].tolist()
    content = bytearray(path.read_bytes())
    record = bytes(content[start : start + length])
    at = {
        "length": start - 12,
        "label": start + record.index(b"label") + len("label") + 6,
        "image": start + record.index(b"PNG") + 50,
        "checksum": start + length + 1,
    }[place]
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"is damaged at byte \d+: .* checksum"):
        open_train(data_dir)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_goes_away_is_named(own_cifar, kind):
    data_dir = own_cifar(kind)
    images, _ = open_train(data_dir)
    path = shard(data_dir)
    path.unlink()
    with pytest.raises(UserError, match=path.name):
        images[20]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_is_not_there_is_named(own_cifar, kind):
    data_dir = own_cifar(kind)
    path = shard(data_dir)
    path.unlink()
    with pytest.raises(UserError, match=f"{path} cannot be read"):
        open_train(data_dir)


def test_what_is_no_tfrecord_file_is_explained(tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text("This is not a file of records at all.")
    with pytest.raises(UserError, match="letter.txt .*not a TFRecord file"):
        find_records([str(path)], [1])


def test_an_empty_tfrecord_file_has_no_records(tmp_path):
    path = tmp_path / "empty"
    path.write_bytes(b"")
    assert len(TFRecordFiles([str(path)], find_records([str(path)], [0]))) == 0


def test_checksums_are_the_published_ones():
    # The test vector of RFC 3720 for CRC-32C, and the mask undone.
    (masked,) = np.frombuffer(masked_checksum(bytes(32)), "<u4").tolist()
    rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
    assert ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF == 0x8A9136AA


@pytest.mark.parametrize("kind", FORMATS)
def test_labels_are_read_once_and_then_kept(own_cifar, kind):
    data_dir = own_cifar(kind)
    images, ids = open_train(data_dir)
    (kept,) = (data_dir / CACHE_FOLDER).iterdir()
    # Changed labels in the file show that the records are not read again.
    with np.load(kept) as arrays:
        changed = dict(arrays)
    changed["labels"] = changed["labels"][::-1]
    stat = kept.stat()
    with kept.open("wb") as file:
        np.savez_compressed(file, **changed)
    again, same_ids = open_train(data_dir)
    assert again.labels.tolist() == images.labels[::-1].tolist()
    assert same_ids.tolist() == ids.tolist() and again[5] == images[5]
    assert kept.stat().st_ino == stat.st_ino


@pytest.mark.parametrize("kind", FORMATS)
def test_labels_of_changed_data_are_read_anew(own_cifar, kind):
    data_dir = own_cifar(kind)
    before, _ = open_train(data_dir)
    shutil.rmtree(data_dir / "cifar10")
    tfds_files.write_cifar(data_dir, "cifar10", 7, 2, kind, shards=3)
    after, _ = open_train(data_dir)
    assert (len(before), len(after)) == (60, 70)
    assert np.bincount(after.labels).tolist() == [7] * 10
    assert len(list((data_dir / CACHE_FOLDER).iterdir())) == 2


def test_a_change_that_keeps_names_and_sizes_is_noticed(own_cifar):
    data_dir = own_cifar("tfrecord")
    open_train(data_dir)
    path = shard(data_dir)
    os.utime(path, (1, 1))
    open_train(data_dir)
    assert len(list((data_dir / CACHE_FOLDER).iterdir())) == 2


def test_a_damaged_file_of_labels_is_written_anew(own_cifar):
    data_dir = own_cifar("array_record")
    images, _ = open_train(data_dir)
    (kept,) = (data_dir / CACHE_FOLDER).iterdir()
    whole = kept.read_bytes()
    flipped = bytes(byte ^ 255 for byte in whole[100:200])
    middle = whole[:100] + flipped + whole[200:]
    for damaged in (whole[:200], b"", b"PK\x03\x04nothing", whole[:-30], middle):
        kept.write_bytes(damaged)
        again, _ = open_train(data_dir)
        assert again.labels.tolist() == images.labels.tolist()
        assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def test_a_folder_that_cannot_be_written_to_is_no_obstacle(own_cifar):
    data_dir = own_cifar("tfrecord")
    # A file instead of the folder: no user can write there.
    (data_dir / CACHE_FOLDER).write_text("")
    images, ids = open_train(data_dir)
    assert len(images) == len(ids) == 60
    assert (data_dir / CACHE_FOLDER).read_text() == ""


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_no_obstacle(own_cifar):
    data_dir = own_cifar("array_record")
    data_dir.chmod(0o500)
    try:
        images, _ = open_train(data_dir)
    finally:
        data_dir.chmod(0o700)
    assert len(images) == 60 and not (data_dir / CACHE_FOLDER).exists()
