"""The main job: what it leaves behind, how it resumes, how it refuses."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("orbax.checkpoint", reason="needs focal_sam_jax[experiments]")

from rich.console import Console

from experiments.errors import UserError
from experiments.train import parse, run

TINY = ["--width", "2", "--epochs", "4", "--batch-size", "128", "--eval-every", "2"]


def train(run_dir, *options):
    console = Console(record=True, width=100)
    run(parse([*TINY, "--run-dir", str(run_dir), *options]), console)
    return console.export_text()


def metrics(run_dir):
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def without_clock(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    return run_dir, train(run_dir)


def test_a_run_leaves_all_its_records(finished):
    run_dir, output = finished
    assert {path.name for path in run_dir.iterdir()} == {
        "checkpoints",
        "manifest.json",
        "metrics.jsonl",
        "per_class_accuracy.png",
        "training_curves.png",
    }
    for figure in run_dir.glob("*.png"):
        assert figure.read_bytes().startswith(b"\x89PNG")
    for word in ("many", "medium", "few", "overall", "307 in all", str(run_dir)[-20:]):
        assert word in output.replace("\n", "")


def test_the_manifest_tells_how_to_repeat_it(finished):
    manifest = json.loads((finished[0] / "manifest.json").read_text())
    assert manifest["config"]["method"] == "focal_sam"
    assert manifest["config"]["width"] == 2
    assert manifest["seeds"] == {"training": 0, "subset": 0}
    assert {"jax", "optax", "flax", "python"} <= manifest["versions"].keys()
    assert {"git_commit", "device", "command"} <= manifest.keys()
    assert sum(manifest["class_counts"]) == manifest["examples"]["train"] == 307


def test_metrics_have_the_promised_keys(finished):
    rows = metrics(finished[0])
    assert all({"step", "epoch", "loss"} <= row.keys() for row in rows)
    assert [r["epoch"] for r in rows if r["split"] == "train"] == [1, 2, 3, 4]
    assert [r["epoch"] for r in rows if r["split"] == "validation"] == [2, 4]
    (test,) = (row for row in rows if row["split"] == "test")
    for name in ("accuracy", "accuracy_many", "accuracy_medium", "accuracy_few"):
        assert 0 <= test[name] <= 1
    assert rows[-1] == test


def test_the_same_seed_gives_the_same_numbers(finished, tmp_path):
    train(tmp_path / "again")
    assert without_clock(metrics(tmp_path / "again")) == without_clock(
        metrics(finished[0])
    )


def test_a_run_is_never_overwritten(finished):
    before = (finished[0] / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="already holds a run.*--run-dir.*--resume"):
        train(finished[0])
    assert (finished[0] / "metrics.jsonl").read_bytes() == before


def test_resuming_a_finished_run_changes_nothing(finished):
    before = without_clock(metrics(finished[0]))
    train(finished[0], "--resume")
    assert without_clock(metrics(finished[0])) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--resume"], "holds no run"),
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--rho", "-1"], "--rho must be at least 0, got -1"),
        (["--rho", "nan"], "--rho must be at least 0, got nan"),
        (["--alpha", "1.5"], "--alpha must be at most 1, got 1.5"),
        (["--momentum", "1"], "--momentum must be less than 1, got 1"),
        (["--imbalance-factor", "500"], "--imbalance-factor 500 leaves no example"),
        (["--config", "digit_lt"], "--config must be one of digits_lt, got 'digit_lt'"),
    ],
)
def test_a_users_mistake_is_explained(options, words, tmp_path):
    with pytest.raises(UserError, match=words):
        train(tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_resuming_with_other_options_is_explained(finished):
    with pytest.raises(UserError, match="rho: 0.* then, 0.9 now.*another --run-dir"):
        train(finished[0], "--resume", "--rho", "0.9")


def test_resume_needs_to_know_the_run():
    with pytest.raises(UserError, match="--resume needs --run-dir"):
        run(parse(["--resume"]), Console())


def test_divergence_stops_the_run(tmp_path):
    with pytest.raises(UserError, match="diverged.*--learning-rate"):
        train(tmp_path / "run", "--learning-rate", "1e30")


def command(*arguments):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment["COLUMNS"] = "100"
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


@pytest.mark.slow
def test_a_mistake_ends_with_status_2_and_one_line():
    process = command("--epochs", "0")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors == "error: --epochs must be at least 1, got 0.\n"


@pytest.mark.slow
def test_help_shows_every_option_with_its_default():
    process = command("--help")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    for text in ("--rho", "--gamma", "--lam", "--run-dir", "--resume", "default: 400"):
        assert text in output


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_numbers(tmp_path):
    options = [*TINY[:2], "--batch-size", "32", "--epochs", "40", "--eval-every", "5"]
    options += ["--checkpoint-every", "1"]
    run(parse([*options, "--run-dir", str(tmp_path / "whole")]), Console(quiet=True))

    killed = tmp_path / "killed"
    process = command(*options, "--run-dir", str(killed))
    deadline = time.monotonic() + 240
    while not (killed / "checkpoints" / "5").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(metrics(killed)) < len(metrics(tmp_path / "whole"))

    run(parse([*options, "--run-dir", str(killed), "--resume"]), Console(quiet=True))
    assert without_clock(metrics(killed)) == without_clock(metrics(tmp_path / "whole"))
