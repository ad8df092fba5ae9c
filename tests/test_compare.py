"""The comparison: what it trains, what it leaves behind, how it tunes and refuses."""

import dataclasses
import json
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


@pytest.fixture
def tiny(monkeypatch):
    """The recipe with a network that trains in no time."""
    small = digits_lt.RECIPE.base.replace(**TINY)
    recipe = dataclasses.replace(digits_lt.RECIPE, base=small)
    monkeypatch.setitem(RECIPES, "digits_lt", recipe)
    monkeypatch.setattr(same_compute, "_TIMED_EPOCHS", 2)
    return recipe


def run(run_dir, **options):
    console = Console(record=True, width=120)
    compare.run(compare.Job(run_dir=run_dir, **options), console)
    return json.loads((run_dir / "results.json").read_text()), console.export_text()


@pytest.mark.slow
def test_methods_share_data_and_epochs_and_leave_a_table(tiny, tmp_path):
    results, output = run(
        tmp_path / "run", methods=("sgd", "focal_sam"), seeds=2, epochs=3
    )
    names = [row["name"] for row in results["rows"]]
    assert names == ["sgd", "focal_sam", "sgd, same compute"]
    assert [row["epochs"] for row in results["rows"][:2]] == [3, 3]
    assert results["rows"][2]["epochs"] >= 1
    assert all(len(row["accuracy"]["values"]) == 2 for row in results["rows"])
    pairs = [row["name"] for row in results["differences"]]
    assert pairs == ["focal_sam − sgd", "same compute − sgd"]
    assert "± standard error" in " ".join(output.split())
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["seeds"] == [0, 1]
    assert manifest["config"]["focal_sam"]["method"] == "focal_sam"
    assert (tmp_path / "run" / "table.md").read_text().count("\n") == 7
    assert (tmp_path / "run" / "comparison.png").read_bytes()[1:4] == b"PNG"


def test_same_compute_lasts_as_long_as_focal_sam(monkeypatch):
    config = digits_lt.RECIPE.base.replace(epochs=60)
    monkeypatch.setattr(same_compute, "make_group_trainer", lambda *_, **__: None)
    timed = []

    def run_group(config, *_):
        timed.append(config)
        return [Outcome({}, 0.002)]

    monkeypatch.setattr(same_compute, "run_group", run_group)
    longer = same_compute.lengthened(
        config, 0.005, [0], [None], lambda: 0.0, device_loop=False
    )
    assert longer == config.replace(epochs=150)
    assert timed == [config.replace(epochs=same_compute._TIMED_EPOCHS)]


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
    exact, *others = results["rows"]
    assert [row["name"] for row in others] == [
        "focal_sam, looksam, same compute",
        "focal_sam, reuse_ascent, same compute",
    ]
    assert [row["approximation"] for row in others] == ["looksam", "reuse_ascent"]
    for name in ("learning_rate", "weight_decay", "rho", "gamma", "lam"):
        assert {row[name] for row in others} == {exact[name]}
    assert [row["name"] for row in results["differences"]] == [
        "looksam, same compute − focal_sam",
        "reuse_ascent, same compute − focal_sam",
    ]
    for difference, row in zip(results["differences"], others, strict=True):
        pairs = zip(row["accuracy"]["values"], exact["accuracy"]["values"], strict=True)
        mean = sum(own - of_exact for own, of_exact in pairs) / 2
        assert difference["accuracy"]["mean"] == pytest.approx(mean)
    assert "looksam" in output
    assert "looksam" in (tmp_path / "run" / "table.md").read_text()


@pytest.mark.slow
def test_tuning_takes_the_best_on_validation(tiny, monkeypatch, tmp_path):
    good = {"learning_rate": 0.05}
    grid = {"sgd": [{"learning_rate": 1e-6}, good], "sam": [{"rho": 0.05}]}
    recipe = dataclasses.replace(tiny, grid=grid)
    monkeypatch.setitem(RECIPES, "digits_lt", recipe)
    monkeypatch.setattr(tuning, "SEEDS", [1000, 1001])
    results, output = run(
        tmp_path / "run", methods=("sgd",), seeds=1, epochs=8, tune=True
    )
    assert results["rows"][0]["learning_rate"] == good["learning_rate"]
    trials = json.loads((tmp_path / "run" / "tuning.json").read_text())["trials"]
    assert [trial["changes"] for trial in trials] == grid["sgd"]
    assert all(len(trial["validation"]) == 2 for trial in trials)
    assert "learning_rate 0.05" in output


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

    # With the splits exchanged the same answers come under the other name.
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
        ({"config": "mnist"}, "--config must be one of digits_lt, .*, got 'mnist'"),
    ],
)
def test_a_users_mistake_is_explained(options, words, tmp_path):
    with pytest.raises(UserError, match=words):
        compare.run(compare.Job(run_dir=tmp_path / "run", **options), Console())
    assert not (tmp_path / "run").exists()


def test_a_comparison_is_never_overwritten(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="already holds a run"):
        compare.run(compare.Job(run_dir=tmp_path), Console())
    assert (tmp_path / "manifest.json").read_text() == "{}"
