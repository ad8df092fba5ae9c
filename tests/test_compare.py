"""Tests of the comparison: training, output files, tuning and errors."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("tyro", reason="needs focal_sam_jax[experiments]")

from rich.console import Console
from tiny_runs import TINY

from experiments import compare
from experiments.comparison import same_compute, seeds, tuning
from experiments.comparison.seeds import Outcome
from experiments.configs import RECIPES, digits_lt
from experiments.errors import UserError
from experiments.records.manifest import read_manifest, write_json
from experiments.records.rows import read_metrics
from experiments.reporting.runs import find_runs
from experiments.training.checkpoint import last_network


@pytest.fixture
def tiny(monkeypatch):
    """Gives the recipe a network that trains quickly."""
    small = digits_lt.RECIPE.base.replace(**TINY)
    recipe = dataclasses.replace(digits_lt.RECIPE, base=small)
    monkeypatch.setitem(RECIPES, "digits_lt", recipe)
    monkeypatch.setattr(same_compute, "_TURNS", 1)
    return recipe


def run(run_dir, **options):
    console = Console(record=True, width=120)
    compare.run(compare.Job(run_dir=run_dir, **options), console)
    report = json.loads((run_dir / "report.json").read_text())
    return report["data"]["digits"], console.export_text()


@pytest.mark.slow
def test_methods_share_data_and_epochs_and_leave_a_table(tiny, tmp_path):
    folder = tmp_path / "run"
    options = {"methods": ("sgd", "focal_sam"), "epochs": 3, "loss": "ce"}
    results, output = run(folder, seeds=2, **options)
    rows = {row["name"]: row for row in results["groups"]}
    configs = [row["config"] for row in rows.values()]
    assert [(c["method"], c["loss"]) for c in configs[::2]] == [
        ("sgd", "ce"),
        ("focal_sam", "ce"),
    ]
    assert configs[0]["epochs"] == configs[2]["epochs"] == 3
    assert configs[1]["method"] == "sgd" and configs[1]["epochs"] >= 1
    assert all(row["seeds"] == [[0, 0], [1, 1]] for row in rows.values())
    pairs = [row["name"] for row in results["differences"]]
    assert "Focal-SAM − SGD" in pairs
    assert "± half the 95 % t-interval" in " ".join(output.split())
    assert {path.name for path in folder.glob("*.png")} == {
        "accuracy.png",
        "curves.png",
        "per_class_accuracy.png",
    }

    # Every run has the files of experiments.train, including the network.
    kept = folder / "runs" / "focal_sam-seed1"
    assert read_manifest(kept)["seeds"] == {"training": 1, "subset": 1}
    step, params, _ = last_network(kept)
    assert step == max(row["step"] for row in read_metrics(kept))
    (finished,), _ = find_runs([kept])
    assert finished.seeds == (1, 1)

    # Finished runs are not trained again; a run that a kill interrupted is.
    before = (kept / "metrics.jsonl").stat().st_mtime_ns
    shutil.rmtree(folder / "runs" / "sgd-seed1")
    (folder / "runs" / "sgd-seed1.tmp").mkdir()
    again, output = run(folder, seeds=3, resume=True, **options)
    assert (kept / "metrics.jsonl").stat().st_mtime_ns == before
    first, now = (
        next(r for r in found["groups"] if r["name"] == "SGD")
        for found in (results, again)
    )
    assert now["last"]["accuracy"]["values"][:2] == first["last"]["accuracy"]["values"]
    assert len(now["seeds"]) == 3 and "sgd, seed 1: " in output
    assert "focal_sam, seed 1: " not in output
    with pytest.raises(UserError, match="contains a comparison with other options"):
        run(folder, seeds=2, resume=True, **options | {"epochs": 2})


def test_same_compute_lasts_as_long_as_focal_sam(monkeypatch):
    config = digits_lt.RECIPE.base.replace(epochs=60, method="sgd")
    reference = config.replace(method="focal_sam")
    monkeypatch.setattr(same_compute, "make_group_trainer", lambda *_, **__: None)
    timed = []

    def run_group(config, *_):
        # Compiling takes 9 seconds. The machine gets slower, and once stands still.
        slower = 1 + len(timed) // 2 + 50 * (len(timed) == 3)
        timed.append(config.method)
        seconds = slower * {"sgd": 0.02, "focal_sam": 0.05}[config.method]
        return [
            Outcome(
                {},
                [
                    {"split": "train", "epoch": epoch, "step": 10 * epoch, "seconds": s}
                    for epoch, s in ((1, 9.0), (2, seconds))
                ],
                None,
            )
        ]

    monkeypatch.setattr(same_compute, "run_group", run_group)
    longer = same_compute.lengthened(
        config, reference, [0], [None], lambda: 0.0, device_loop=False
    )
    assert longer == config.replace(epochs=150)
    assert timed == ["focal_sam", "sgd"] * 3


@pytest.mark.slow
def test_approximations_have_focal_sams_numbers_and_are_compared_with_it(
    tiny, tmp_path
):
    results, output = run(
        tmp_path / "run",
        methods=("focal_sam",),
        approximations=("looksam", "reuse_ascent"),
        seeds=2,
        epochs=2,
    )
    rows = {row["config"]["approximation"]: row["config"] for row in results["groups"]}
    assert set(rows) == {"none", "looksam", "reuse_ascent"}
    for name in ("learning_rate", "weight_decay", "rho", "gamma", "lam"):
        assert len({config[name] for config in rows.values()}) == 1
    pairs = " ".join(row["name"] for row in results["differences"])
    assert len(results["differences"]) == 2
    assert "approximation looksam" in pairs and "reuse_ascent" in pairs
    assert "looksam" in (tmp_path / "run" / "table.md").read_text()


@pytest.mark.slow
def test_tuning_takes_the_best_on_validation(tiny, monkeypatch, tmp_path):
    good = {"learning_rate": 0.05}
    grid = {"sgd": [{"learning_rate": 1e-6}, good], "sam": [{"rho": 0.05}]}
    recipe = dataclasses.replace(tiny, grid=grid)
    monkeypatch.setitem(RECIPES, "digits_lt", recipe)
    monkeypatch.setattr(tuning, "SEEDS", [1000, 1001])
    options = {"methods": ("sgd",), "epochs": 8, "tune": True}
    results, output = run(tmp_path / "run", seeds=1, **options)
    config = results["groups"][0]["config"]
    assert config["learning_rate"] == good["learning_rate"]
    trials = json.loads((tmp_path / "run" / "tuning.json").read_text())["trials"]
    assert [trial["changes"] for trial in trials] == grid["sgd"]
    assert all(len(trial["validation"]) == 2 for trial in trials)
    assert "learning_rate 0.05" in output

    # Saved trials are not repeated, and determine the choice.
    trials[0]["validation"] = [1.0, 1.0]
    write_json(tmp_path / "run" / "tuning.json", {"trials": trials})
    results, output = run(tmp_path / "run", seeds=2, resume=True, **options)
    assert {row["config"]["learning_rate"] for row in results["groups"]} == {0.05, 1e-6}


def test_every_method_has_as_many_trials():
    assert len({len(candidates) for candidates in digits_lt.RECIPE.grid.values()}) == 1


def test_the_tuned_values_are_in_the_grid():
    for method, chosen in digits_lt.RECIPE.methods.items():
        assert chosen in digits_lt.RECIPE.grid[method]


def test_tuning_seeds_are_never_reported(tmp_path):
    assert min(tuning.SEEDS) >= 1000
    with pytest.raises(UserError, match="--seeds must be from 1 to 1000, got 1001"):
        compare.run(compare.Job(seeds=1001, run_dir=tmp_path / "run"), Console())


@pytest.mark.slow
def test_a_group_of_seeds_is_scored_on_the_split_that_is_asked_for(tiny):
    config = tiny.base.replace(epochs=1)
    (group,) = seeds.grouped([0, 1], together=True)
    datasets = [seeds.seed_dataset(config, seed, Path()) for seed in group]
    trainer = seeds.make_group_trainer(config, datasets, device_loop=True)

    def found(split, datasets):
        outcomes = seeds.run_group(config, trainer, group, datasets, split, lambda: 0.0)
        return outcomes[0].scores["accuracy_per_class"]

    # With the splits exchanged, the same results have the other name.
    exchanged = [d._replace(validation=d.test, test=d.validation) for d in datasets]
    for split, other in (("validation", "test"), ("test", "validation")):
        assert found(split, datasets) == found(other, exchanged)
    assert found("test", datasets) != found("validation", datasets)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seeds": 0}, "--seeds must be from 1 to 1000, got 0"),
        (
            {"methods": ("sgd",), "approximations": ("looksam",)},
            "add focal_sam to --methods",
        ),
        ({"methods": ()}, "--methods needs at least one of sgd"),
        ({"epochs": 0}, "--epochs must be at least 1, got 0"),
        ({"config": "imagenet_lt"}, "images of 224 pixels are streamed"),
        ({"config": "cifar10_lt", "tune": True}, "the recipe cifar10_lt has none"),
        ({"config": "vit_digits_lt", "tune": True}, "no candidates for sam, imbsam, "),
        ({"resume": True, "run_dir": None}, "--resume needs --run-dir"),
        ({"config": "fashion_mnist_lt_small"}, "fashion_mnist is not in"),
        ({"run_dir": Path("a[1]")}, "no checkpoint can be written below"),
        ({"config": "mnist"}, "--config must be one of digits_lt, .*, got 'mnist'"),
    ],
)
def test_a_users_mistake_is_explained(options, words, tmp_path):
    with pytest.raises(UserError, match=words):
        options = {"run_dir": tmp_path / "run", "data_dir": tmp_path} | options
        compare.run(compare.Job(**options), Console())
    assert not (tmp_path / "run").exists()


def test_a_run_that_diverges_is_no_result(tiny, monkeypatch, tmp_path):
    recipe = dataclasses.replace(tiny, methods={"sgd": {"learning_rate": 1e38}})
    monkeypatch.setitem(RECIPES, "digits_lt", recipe)
    with pytest.raises(UserError, match="sgd, seed 0: .* training diverged"):
        run(tmp_path / "run", methods=("sgd",), seeds=1, epochs=6)
    assert not list((tmp_path / "run").glob("runs/*"))


def test_a_comparison_is_never_overwritten(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="already contains a run"):
        compare.run(compare.Job(run_dir=tmp_path), Console())
    assert (tmp_path / "manifest.json").read_text() == "{}"
