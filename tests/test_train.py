"""Tests of the train command: output files, resuming, errors."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("orbax.checkpoint", reason="needs focal_sam_jax[experiments]")

from commands import finish, metrics, start
from rich.console import Console
from tiny_runs import FLAGS, run_train

from experiments.config import Config
from experiments.configs import get_config
from experiments.errors import UserError
from experiments.records.folders import locked, new_run_dir
from experiments.train import parse, run
from experiments.training import loop

TINY = [*FLAGS, "--epochs", "4", "--eval-every", "2"]


def train(run_dir, *options, **how):
    return run_train(run_dir, *TINY, *options, **how)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    return run_dir, train(run_dir, draws=True)


def test_a_run_leaves_all_its_records(finished):
    run_dir, output = finished
    assert len(list(run_dir.glob("events.out.tfevents.*"))) == 1
    names = {path.name for path in run_dir.iterdir()}
    assert {name for name in names if not name.startswith("events.")} == {
        "checkpoints",
        "confusion_matrix.png",
        "confusion.npz",
        "manifest.json",
        "metrics.jsonl",
        "per_class_accuracy.png",
        "reliability.png",
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
    tests = [row for row in rows if row["split"] == "test"]
    assert rows[-2:] == tests
    assert [test["which"] for test in tests] == ["last", "best"]
    names = ["accuracy", "accuracy_many", "accuracy_medium", "accuracy_few", "ece"]
    for test in tests:
        assert all(0 <= test[name] <= 1 for name in names)
    confusion = np.load(finished[0] / "confusion.npz")["confusion"]
    assert tests[0]["accuracy"] == np.trace(confusion) / confusion.sum()


def test_the_best_epoch_is_chosen_on_the_validation_split(finished):
    rows = metrics(finished[0])
    looks = [row for row in rows if row["split"] == "validation"]
    best = max(looks, key=lambda row: row["accuracy"])
    assert rows[-1]["which"] == "best" and rows[-1]["epoch"] == best["epoch"]
    assert f"best on validation: epoch {best['epoch']}" in finished[1]


def test_the_best_network_is_judged_and_not_the_last(tmp_path, monkeypatch):
    scores, falling = loop.scores, iter([0.9, 0.8, 0.7, 0.6])
    monkeypatch.setattr(
        loop, "scores", lambda *args: scores(*args) | {"accuracy": next(falling)}
    )
    train(tmp_path / "run", "--epochs", "2", "--eval-every", "1")
    last, best = metrics(tmp_path / "run")[-2:]
    assert (last["which"], last["epoch"]) == ("last", 2)
    assert (best["which"], best["epoch"]) == ("best", 1)
    assert best["loss"] != last["loss"]


def test_a_run_is_never_overwritten(finished):
    before = (finished[0] / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="already contains a run.*--run-dir.*--resume"):
        train(finished[0])
    assert (finished[0] / "metrics.jsonl").read_bytes() == before


def test_resuming_a_finished_run_changes_nothing(finished):
    before = metrics(finished[0])
    train(finished[0], "--resume")
    assert metrics(finished[0]) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--epochs", "0"], "--epochs must be at least 1, got 0"),
        (["--rho", "-1"], "--rho must be at least 0, got -1"),
        (["--rho", "nan"], "--rho must be at least 0, got nan"),
        (["--alpha", "1.5"], "--alpha must be at most 1, got 1.5"),
        (["--rho", "inf"], "--rho must be finite, got inf"),
        (["--learning-rate", "inf"], "--learning-rate must be finite, got inf"),
        (["--seed", "4294967296"], "--seed must be at most 2147483647"),
        (["--workers", "-1"], "--workers must be at least 0, got -1"),
        (["--momentum", "1"], "--momentum must be less than 1, got 1"),
        (["--imbalance-factor", "500"], "--imbalance-factor 500 leaves no example"),
        (
            ["--config", "digit_lt"],
            "--config must be one of digits_lt, .*, got 'digit_lt'",
        ),
    ],
)
def test_a_users_mistake_is_explained(options, words, tmp_path):
    with pytest.raises(UserError, match=words):
        train(tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()


def test_resuming_with_other_options_is_explained(finished):
    with pytest.raises(UserError, match="gamma: 3.0 then, 9.0 now.*another --run-dir"):
        train(finished[0], "--resume", "--gamma", "9")
    with pytest.raises(UserError, match="--epochs 3 is less than the 4 epochs that"):
        train(finished[0], "--resume", "--epochs", "3")


@pytest.mark.slow
def test_a_run_goes_on_for_longer_and_more_slowly(finished, tmp_path):
    run_dir = shutil.copytree(finished[0], tmp_path / "run")
    before = metrics(run_dir)
    train(run_dir, "--resume", "--epochs", "6", "--learning-rate", "0.01")
    manifest = json.loads((run_dir / "manifest.json").read_text())
    assert manifest["config"]["epochs"] == 6
    (change,) = manifest["changes"]
    assert change["step"] == 4 * 2 and change["options"]["epochs"] == [4, 6]
    assert change["options"]["learning_rate"] == [0.2, 0.01]
    rows = metrics(run_dir)
    trained = [row for row in rows if row["split"] == "train"]
    assert [row["epoch"] for row in trained] == [1, 2, 3, 4, 5, 6]
    assert trained[:4] == [row for row in before if row["split"] == "train"]
    assert trained[4]["learning_rate"] < 0.01
    assert {row["epoch"] for row in rows if row["split"] == "test"} >= {6}


def test_one_process_at_a_time_is_in_a_run(finished):
    with locked(finished[0]), pytest.raises(UserError, match="another process is us"):
        train(finished[0], "--resume")
    train(finished[0], "--resume")


@pytest.mark.parametrize("name", ["a[1]", "a*", "a?", "a\\b"])
def test_where_no_checkpoint_can_be_written_is_said_at_once(tmp_path, name):
    with pytest.raises(UserError, match="no checkpoint can be written below .* in it"):
        train(tmp_path / name)
    assert not any(tmp_path.iterdir())


def test_new_folders_are_never_shared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [new_run_dir("a") for _ in range(3)]
    assert made == [Path("runs/a"), Path("runs/a-2"), Path("runs/a-3")]
    assert all(folder.is_dir() for folder in made)


@pytest.mark.parametrize("name", ["x" * 300, "file/run"])
def test_a_folder_that_cannot_be_made_is_explained(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the folder .* for --run-dir"):
        train(tmp_path / name)


@pytest.mark.by_default(platform=("nonsense",))
@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_devices_that_are_not_there_are_explained(platform):
    status, said = finish(start("train", JAX_PLATFORMS=platform))
    assert status == 2 and said.startswith("starting\nerror: "), said
    assert said.count("\n") == 2, said
    assert f"JAX cannot use devices of JAX_PLATFORMS={platform}" in said


@pytest.mark.slow
def test_any_other_name_is_a_folder(tmp_path):
    name = "a !#$%&'()+,-.:;<=>@^_`{|}~\"ü猫"
    run_dir = tmp_path / name
    assert name in train(run_dir, "--epochs", "1").replace("\n", "")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    train(run_dir, "--epochs", "1", "--resume")


@pytest.mark.slow
def test_skipped_steps_are_counted_and_metrics_stay_json(tmp_path):
    options = ["--learning-rate", "1e30", "--max-skipped", "99", "--epochs", "2"]
    run_dir = tmp_path / "run"
    said = train(run_dir, *options)
    assert "of 4 steps were skipped" in said
    for line in (run_dir / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


@pytest.mark.slow
def test_a_run_that_learned_nothing_has_no_result(tmp_path):
    options = ["--rho", "1e38", "--max-skipped", "99", "--epochs", "1"]
    with pytest.raises(UserError, match="not finite in any of the 2 steps, so nothing"):
        train(tmp_path / "run", *options)
    assert not any(row["split"] == "test" for row in metrics(tmp_path / "run"))


def test_resume_needs_to_know_the_run():
    with pytest.raises(UserError, match="--resume needs --run-dir"):
        run(parse(["--resume"]), Console())


@pytest.mark.slow
def test_divergence_stops_the_run(tmp_path):
    words = "not finite in 10 steps in a row, the first of them step [23]:.*--learning"
    with pytest.raises(UserError, match=words):
        train(tmp_path / "run", "--learning-rate", "1e30", "--epochs", "9")
    rows = metrics(tmp_path / "run")
    assert rows[-1]["skipped"] > 0


def test_own_data_are_not_cut():
    config = parse(["--data", "lists:somewhere", "--config", "cifar10_lt"]).config
    assert (config.config, config.imbalance) == ("cifar10_lt", "natural")
    assert config.data == "lists:somewhere"


def test_a_loss_brings_what_goes_with_it():
    config = parse(["--loss", "ldam"]).config
    assert (config.head, config.drw_start) == ("cosine", 320)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--method sam --gamma 2", "--gamma has .* it needs --method focal_sam"),
        ("--method sgd --rho 0.1", "--rho has no effect with --method sgd"),
        ("--method sgd --rho=0.1", "--rho has no effect with --method sgd"),
        ("--alpha 0.5", "--alpha has no effect with --method focal_sam"),
        ("--tail-threshold 9", "needs --method imbsam"),
        ("--tail_threshold 9", "needs --method imbsam"),
        ("--rho 0.1 --rho-schedule step", "--rho-schedule constant or linear"),
        ("--rho-start 0.1", "needs --rho-schedule linear"),
        ("--rho-values 0.1 0.2", "needs --rho-schedule step"),
        ("--milestones 3", "needs --schedule multistep"),
        ("--every 3", "needs --approximation looksam"),
        ("--config vit_digits_lt --momentum 0.8", "needs --optimizer sgd"),
        ("--config vit_digits_lt --width 8", "needs --model resnet_digits"),
        ("--tuners lora", "needs --model clip"),
        ("--class-names names.txt", "needs --model clip"),
        ("--head-scale 16", "needs --head cosine"),
        (
            "--config imagenet_lt --imbalance-factor 9",
            "needs --imbalance exp or step",
        ),
        ("--loss ldam --head linear", "--loss ldam needs --head cosine"),
        ("--epochs 60 --loss ldam --drw-start 60", "--drw-start 60 is never reached"),
    ],
)
def test_an_option_without_effect_is_refused(options, words):
    with pytest.raises(UserError, match=words):
        parse(options.split())


def test_a_radius_that_is_given_is_the_radius():
    config = parse("--config imagenet_lt --rho 0.3".split()).config
    assert (config.rho, config.rho_schedule) == (0.3, "constant")
    config = parse("--rho 0.3 --rho-schedule linear --rho-start 0.1".split()).config
    assert (config.rho, config.rho_schedule) == (0.3, "linear")


def test_in_a_shorter_run_all_comes_in_proportion():
    config = parse("--loss ldam --epochs 60".split()).config
    assert (config.epochs, config.drw_start) == (60, 48)
    shorter = "--config imagenet_lt --epochs 50".split()
    assert parse(shorter).config.rho_milestones == (40,)
    config = parse([*shorter, "--rho-milestones", "30"]).config
    assert config.rho_milestones == (30,)
    cifar = "--config cifar100_lt --epochs 50".split()
    assert parse([*cifar, "--schedule", "multistep"]).config.milestones == (40, 45)
    config = parse([*cifar, "--rho-schedule", "step"]).config
    assert config.rho_milestones == (1, 40, 45)
    assert parse("--config vit_digits_lt --epochs 3".split()).config.warmup == 1
    shortest = get_config("digits_lt", "sgd").replace(schedule="multistep")
    assert shortest.with_epochs(1).milestones == (1, 2)


def test_help_shows_every_option_with_its_default(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(["--help"])
    assert not ended.value.code
    said = capsys.readouterr().out
    flags = ("--" + f.name.replace("_", "-") for f in dataclasses.fields(Config))
    for text in (*flags, "--run-dir", "--resume", "default: 400"):
        assert text in said
