"""The command that downloads data sets."""

import hashlib
import io
import json
import sys
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
from commands import python

pytest.importorskip("tyro", reason="needs focal_sam_jax[experiments]")
pytest.importorskip("tensorflow_datasets", reason="needs focal_sam_jax[data]")

import requests
import tensorflow_datasets as tfds
import tfds_files
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError

from experiments import prepare as command
from experiments.configs import get_config
from experiments.data.load import load_dataset
from experiments.errors import UserError


def prepare(*arguments, before="", **environment):
    """Runs the command in a separate process, after the statements ``before``."""
    program = (
        f"import sys; sys.argv[0] = 'prepare'\n{before}\n"
        "from experiments.ending import exit_with\n"
        "from experiments.prepare import main\n"
        "exit_with(main)"
    )
    return python(program, *arguments, **environment)


def hide(package):
    return f"sys.modules[{package!r}] = None"


@pytest.mark.parametrize(
    "package", ["tensorflow", "tensorflow_datasets", "array_record"]
)
def test_a_missing_package_is_explained(tmp_path, package):
    done = prepare("cifar10", "--data-dir", tmp_path, before=hide(package))
    assert done.returncode == 2
    assert f"needs the package {package}" in done.stderr
    assert "pip install -e '.[experiments,prepare]'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["array_record", "tfrecord"])
def test_what_is_prepared_already_needs_nothing(tmp_path, capsys, monkeypatch, kind):
    folder = tfds_files.write_cifar(tmp_path, "cifar10", file_format=kind)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    capsys.readouterr()
    command.run(command.Job(("cifar10",), tmp_path))
    said = capsys.readouterr().out
    assert said == f"cifar10 is already prepared in {folder}.\n"


def test_places_also_needs_its_lists(tmp_path, capsys):
    tfds_files.write_places(tmp_path)
    command.run(command.Job(("places_lt",), tmp_path))
    said = capsys.readouterr().out
    assert "Places_LT_test.txt" in said and str(tmp_path / "places_lt") in said


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "Pass one or more of fashion_mnist"),
        (("cifar",), "got 'cifar'"),
        (("cifar10", "mnist"), "got 'mnist'"),
    ],
)
def test_names_that_do_not_suit_are_explained(tmp_path, monkeypatch, names, words):
    arguments = ["prepare", *names, "--data-dir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(UserError, match=words):
        command.main()
    assert list(tmp_path.iterdir()) == []


def test_imagenet_archives_are_the_users_to_bring(tmp_path):
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "ILSVRC2012_img_val.tar").touch()
    words = f"put ILSVRC2012_img_train.tar from image-net.org into {manual}"
    with pytest.raises(UserError, match=words):
        command.run(command.Job(("imagenet_lt",), tmp_path))


def test_help_names_the_data_sets():
    done = prepare("--help")
    assert done.returncode == 0
    for word in ("cifar10", "places_lt", "tfds:NAME", "--data-dir"):
        assert word in done.stdout


def original_cifar10(per_batch):
    """Returns an archive like the original one, and its pixels and labels by name."""
    rng = np.random.default_rng(0)
    files = {"batches.meta.txt": "\n".join(tfds_files.CIFAR10_NAMES).encode() + b"\n\n"}
    batches = {}
    for name in [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]:
        labels = np.arange(per_batch, dtype=np.uint8)[:, None] % 10
        images = rng.integers(0, 256, (per_batch, 3 * 32 * 32), np.uint8)
        files[name] = np.concatenate([labels, images], axis=1).tobytes()
        pixels = images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        batches[name] = pixels, labels[:, 0]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return archive.getvalue(), batches


def put_in_downloads(data_dir, archive):
    """Writes the archive where TFDS looks for downloads."""
    from tensorflow_datasets.core.download import checksums, resource

    url = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    known = checksums.get_all_url_infos()[url]
    folder = data_dir / "downloads" / "cifar10"
    folder.mkdir(parents=True)
    path = folder / resource.get_dl_fname(url, known.checksum)
    path.write_bytes(archive)
    info = {"dataset_names": ["cifar10"], "urls": [url]}
    path.with_name(path.name + ".INFO").write_text(json.dumps(info))


@pytest.mark.slow
def test_the_real_builder_prepares_cifar10(tmp_path):
    pytest.importorskip("tensorflow", reason="needs focal_sam_jax[prepare]")
    archive, batches = original_cifar10(per_batch=20)
    put_in_downloads(tmp_path, archive)
    done = prepare("cifar10", "--data-dir", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"cifar10 is prepared in {tmp_path / 'cifar10' / '3.0.2'}" in done.stdout

    config = get_config("cifar10_lt", "sgd").replace(imbalance="natural")
    data = load_dataset(config, tmp_path)
    train = [batches[f"data_batch_{i}.bin"] for i in range(1, 6)]
    images, labels = map(np.concatenate, zip(*train, strict=True))
    np.testing.assert_array_equal(data.train.images, images)
    np.testing.assert_array_equal(data.train.labels, labels)
    images, labels = batches["test_batch.bin"]
    np.testing.assert_array_equal(data.test.images, images)
    assert data.class_names == tuple(tfds_files.CIFAR10_NAMES)


def test_no_network_is_explained(tmp_path):
    pytest.importorskip("tensorflow", reason="needs focal_sam_jax[prepare]")
    # A proxy that does not exist, and no retry, for which TFDS waits long.
    proxy = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    once = (
        "from tensorflow_datasets.core.download import downloader\n"
        "downloader.MAX_RETRIES = 0"
    )
    done = prepare("cifar10", "--data-dir", tmp_path, before=once, **proxy)
    assert done.returncode == 2, done.stderr
    (last,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "cifar10 could not be downloaded (https://www.cs.toronto.edu" in last
    assert "check the network" in last and "Traceback" not in done.stderr
    assert not (tmp_path / "cifar10" / "3.0.2").exists()


def test_a_wrong_archive_is_explained(tmp_path):
    pytest.importorskip("tensorflow", reason="needs focal_sam_jax[prepare]")
    manual = tmp_path / "downloads" / "manual"
    manual.mkdir(parents=True)
    wrong = b"a page that asks for a password"
    (manual / "cifar-10-binary.tar.gz").write_bytes(wrong)
    done = prepare("cifar10", "--data-dir", tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert hashlib.sha256(wrong).hexdigest() in done.stderr


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            requests.ConnectionError(request=requests.Request(url="http://a/b")),
            r"cifar10 could not be downloaded \(http://a/b\): check the network",
        ),
        (
            tfds.download.DownloadError("no answer"),
            r"could not be downloaded \(no answer\): check the network",
        ),
        (
            NonMatchingChecksumError("Artifact\n  is wrong"),
            "the download of cifar10 is not what TFDS .* says: Artifact is wrong",
        ),
    ],
)
def test_a_download_that_fails_is_explained(tmp_path, monkeypatch, error, words):
    def fails(**options):
        raise error

    builder = SimpleNamespace(data_dir=tmp_path, download_and_prepare=fails)
    monkeypatch.setattr(command, "_NEEDED", ())
    monkeypatch.setattr(tfds, "builder", lambda *args, **options: builder)
    with pytest.raises(UserError, match=words):
        command.run(command.Job(("cifar10",), tmp_path))


def test_an_unknown_tfds_name_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "_NEEDED", ())
    with pytest.raises(UserError, match="TFDS has no data set called no_such_data"):
        command.run(command.Job(("tfds:no_such_data",), tmp_path))


def test_tensorflow_reads_the_tfrecord_files_of_the_fixtures(tmp_path):
    tf = pytest.importorskip("tensorflow", reason="needs focal_sam_jax[prepare]")
    folder = tfds_files.write_cifar(tmp_path, "cifar10", file_format="tfrecord")
    (path,) = folder.glob("*train.tfrecord*")
    # TensorFlow verifies the checksums.
    assert sum(1 for _ in tf.data.TFRecordDataset(str(path))) == 120
