"""Training on images that are streamed from disk, from the command to the metrics."""

import signal
import time

import numpy as np
import pytest

pytest.importorskip("grain", reason="needs focal_sam_jax[data]")
pytest.importorskip("orbax.checkpoint", reason="needs focal_sam_jax[experiments]")

from commands import PATIENCE, finish, finish_all, metrics, start, start_two
from PIL import Image

COUNTS = {"ash": 30, "birch": 12, "cedar": 5}


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Writes images, a colour per class; returns options for a small network."""
    folder = tmp_path_factory.mktemp("trees")
    rng = np.random.default_rng(0)
    for colour, (name, count) in enumerate(COUNTS.items()):
        for part, size in (("train", count), ("val", 3), ("test", 7)):
            (folder / part / name).mkdir(parents=True)
            for i in range(size):
                shape = (*rng.integers(70, 120, 2), 3)
                pixels = rng.integers(0, 128, shape, np.uint8)
                pixels[..., colour] += 127
                Image.fromarray(pixels).save(folder / part / name / f"{i}.jpg")
    job = ["--data", f"folder:{folder}", "--image-size", 72, "--batch-size", 8]
    job += ["--model", "resnet_digits", "--width", 2, "--learning-rate", 0.05]
    return [*job, "--eval-every", 1, "--checkpoint-every", 2, "--epochs", 4]


@pytest.fixture(scope="module")
def whole(job, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "whole"
    status, said = finish(start("train", *job, "--run-dir", run_dir))
    assert status == 0, said
    return run_dir


@pytest.mark.slow
def test_it_learns_and_counts_every_image(whole):
    rows = metrics(whole)
    train = [row for row in rows if row["split"] == "train"]
    # 47 images are five full batches.
    assert [row["step"] for row in train] == [5, 10, 15, 20]
    assert train[-1]["loss"] < train[0]["loss"]
    tests = [row for row in rows if row["split"] == "test"]
    confusion = np.load(whole / "confusion.npz")["confusion"]
    assert confusion.sum(1).tolist() == [7, 7, 7]
    assert tests[0]["accuracy"] == pytest.approx(np.trace(confusion) / 21)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signal_", "workers"), [(signal.SIGTERM, 0), (signal.SIGKILL, 1)]
)
def test_a_stream_resumes_where_it_was(job, whole, tmp_path, signal_, workers):
    """Tests both signals, and reading in threads or processes."""
    run_dir = tmp_path / "run"
    options = [*job, "--workers", workers, "--run-dir", run_dir]
    process = start("train", *options)
    deadline = time.monotonic() + PATIENCE
    while not (run_dir / "metrics.jsonl").exists() or not metrics(run_dir):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal_)
    process.communicate()
    assert process.returncode != 0
    status, said = finish(start("train", *options, "--resume"))
    assert status == 0, said
    assert metrics(run_dir) == metrics(whole)


@pytest.mark.slow
def test_two_hosts_read_what_one_reads(job, tmp_path):
    run_dirs = [tmp_path / "two", tmp_path / "one"]
    finish_all(start_two(run_dirs[0], *job))
    flags = "--xla_force_host_platform_device_count=2"
    status, said = finish(
        start("train", *job, "--run-dir", run_dirs[1], XLA_FLAGS=flags)
    )
    assert status == 0, said
    assert metrics(run_dirs[0]) == metrics(run_dirs[1])


@pytest.mark.slow
def test_a_damaged_image_is_named(job, tmp_path):
    folder = tmp_path / "trees"
    for part in ("train", "test"):
        for name in ("ash", "birch"):
            (folder / part / name).mkdir(parents=True)
            for i in range(8):
                image = Image.new("RGB", (80, 80), (10 * i, 0, 0))
                image.save(folder / part / name / f"{i}.jpg")
    damaged = folder / "train" / "birch" / "3.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    options = [*job, "--data", f"folder:{folder}", "--run-dir", tmp_path / "run"]
    status, said = finish(start("train", *options, "--workers", 1))
    assert status == 2, said
    assert str(damaged) in said and "Traceback" not in said
