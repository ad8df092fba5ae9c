"""Tests of the analysis of trained networks: numbers, text and errors."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("orbax.checkpoint", reason="needs focal_sam_jax[experiments]")

from commands import finish, metrics, start
from rich.console import Console
from run_folders import write_run
from tiny_runs import FLAGS, ONE, run_train, tiny

from experiments import analyze, devices
from experiments.configs import get_config
from experiments.data.dataset import normalised
from experiments.data.feed import whole_split
from experiments.data.load import load_dataset
from experiments.errors import UserError
from experiments.models import make_model
from experiments.sharpness import classes
from experiments.sharpness.losses import class_shares
from experiments.sharpness.measure import GROUPS, Settings, Subject, open_subject
from experiments.sharpness.summary import (
    MEASURES,
    Measured,
    summaries,
    tables,
    verdict,
)
from experiments.training.checkpoint import last_network
from experiments.training.criterion import make_loss
from experiments.training.evaluate import eval_logits

JOB = [*FLAGS, "--epochs", "2"]
QUICK = Settings(
    ascent_steps=2, samples=2, trace_samples=2, lanczos_steps=4, grid=3, restarts=2
)
RADII = {"rho": 0.05, "adaptive_rho": 0.5, "average_rho": 5.0}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two methods with two seeds, trained for two epochs."""
    folder = tmp_path_factory.mktemp("runs")
    for method in ("sgd", "focal_sam"):
        for seed in ("0", "1"):
            run_dir = folder / f"{method}-{seed}"
            options = ["--method", method, "--seed", seed, "--subset-seed", seed]
            run_train(run_dir, *JOB, *options, "--sharpness-every", "2")
    return folder


@pytest.fixture(scope="module")
def analysis(runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "analysis"
    console = Console(record=True, width=120)
    job = analyze.Job(run_dirs=(runs,), out=out, settings=QUICK)
    analyze.run(job, console)
    return out, json.loads((out / "analysis.json").read_text()), console.export_text()


@pytest.mark.slow
def test_an_analysis_leaves_numbers_tables_words_and_figures(analysis, runs):
    out, written, said = analysis
    assert {path.name for path in out.iterdir()} == {
        "analysis.json",
        "table.md",
        *(
            f"{name}.{ending}"
            for name in ("class_sharpness", "spectra", "landscapes")
            for ending in ("png", "json")
        ),
    }
    assert [row["name"] for row in written["groups"]] == ["SGD", "Focal-SAM"]
    assert len(written["runs"]) == 4
    for numbers in written["runs"].values():
        assert numbers["groups"].keys() == set(GROUPS)
        for shot in GROUPS:
            of_group = numbers["groups"][shot]
            assert np.isfinite(of_group["eigenvalue"]) and np.isfinite(
                of_group["trace"]
            )
        for of_class in numbers["classes"].values():
            assert len(of_class) == 10
        ascent, first = (
            np.array(numbers["classes"][name]) for name in ("ascent", "sharpness")
        )
        assert np.all(ascent >= first - 1e-5) and np.all(first > 0)
        assert numbers["terms"]["num_parameters"] > 100
    for measure in MEASURES:
        title = measure.title.format(**RADII)
        assert title in (out / "table.md").read_text()
        for row in written["groups"]:
            assert row[measure.name]["few"]["spread"] is not None
    assert "few-shot classes" in said and "flattest first" in said
    assert all(line in (out / "table.md").read_text() for line in written["words"])


@pytest.mark.slow
def test_beside_every_figure_are_its_numbers(analysis):
    out, written, _ = analysis
    curves = json.loads((out / "class_sharpness.json").read_text())
    assert curves["training_images"] == sorted(curves["training_images"], reverse=True)
    values = [run["classes"]["ascent"] for run in written["runs"].values()]
    shown = np.array(curves["SGD"]["mean"]) + np.array(curves["Focal-SAM"]["mean"])
    np.testing.assert_allclose(shown.sum(), np.sum(values) / 2, rtol=1e-5)
    spectra = json.loads((out / "spectra.json").read_text())
    assert spectra.keys() == {"many", "few"}
    for of_group in spectra.values():
        step = of_group["eigenvalue"][1] - of_group["eigenvalue"][0]
        np.testing.assert_allclose(np.sum(of_group["SGD"]) * step, 1.0, rtol=0.02)
    planes = json.loads((out / "landscapes.json").read_text())
    assert np.shape(planes["Focal-SAM"]["losses"]["few"]) == (3, 3)
    for name in ("class_sharpness", "spectra", "landscapes"):
        assert (out / f"{name}.png").stat().st_size > 10_000


@pytest.mark.slow
def test_what_is_measured_is_the_criterion_on_the_training_set(runs):
    run_dir = runs / "focal_sam-1"
    subject = open_subject(run_dir, run_dir, devices.device_mesh(1))
    config = get_config("digits_lt", "focal_sam").replace(
        width=2, epochs=2, batch_size=128, seed=1, subset_seed=1
    )
    dataset = load_dataset(config, None)
    _, params, batch_stats = last_network(run_dir)
    model = make_model(config, 10, channels=1)
    images = jnp.asarray(dataset.train.images)
    images = normalised(images, dataset.mean, dataset.std)
    logits, _ = model.apply(params, batch_stats, images, train=False)
    labels = dataset.train.labels
    losses = make_loss(config, dataset.class_counts)(logits, labels, 1)
    wanted = [np.mean(np.asarray(losses)[labels == c]) for c in range(10)]
    got = np.asarray(subject.losses.values(subject.params)) / subject.shares
    np.testing.assert_allclose(got, wanted, rtol=1e-4)
    np.testing.assert_allclose(
        subject.weights("few") @ subject.losses.values(subject.params),
        np.mean([wanted[c] for c in range(10) if subject.groups[c] == "few"]),
        rtol=1e-4,
    )


@pytest.mark.slow
def test_training_logs_the_sharpness_of_every_class(runs):
    rows = metrics(runs / "sgd-0")
    (row,) = [row for row in rows if row["split"] == "sharpness"]
    assert row["epoch"] == 2 and {"step", "loss", "rho"} <= row.keys()
    assert len(row["sharpness_per_class"]) == 10
    few = [
        s
        for s, n in zip(row["sharpness_per_class"], _counts(runs), strict=True)
        if n < 10
    ]
    assert row["sharpness_few"] == pytest.approx(np.mean(few))
    # Every training row contains the estimate that needs no extra pass.
    free = [
        row["sharpness"]
        for row in metrics(runs / "focal_sam-0")
        if row["split"] == "train"
    ]
    assert len(free) == 2 and all(np.isfinite(free))


def _counts(runs):
    return json.loads((runs / "sgd-0" / "manifest.json").read_text())["class_counts"]


@pytest.mark.slow
def test_sharpness_in_training_is_that_of_the_analysis(runs):
    subject = open_subject(runs / "sgd-0", runs, devices.device_mesh(1))
    config, dataset = tiny("sgd", epochs=2, sharpness_every=2)
    network = subject.params, last_network(runs / "sgd-0")[2]
    row = classes.sharpness_row(
        config, dataset, network, {}, lambda: whole_split(config, dataset.train, ONE)
    )
    (logged,) = [r for r in metrics(runs / "sgd-0") if r["split"] == "sharpness"]
    np.testing.assert_allclose(
        row["sharpness_per_class"], logged["sharpness_per_class"], rtol=1e-3
    )


@pytest.mark.slow
def test_of_some_images_of_a_class_the_means_are_theirs(runs):
    run_dir, mesh = runs / "sgd-0", devices.device_mesh(1)
    few = open_subject(run_dir, runs, mesh, images_per_class=4)
    config, dataset = tiny("sgd", epochs=2)
    model = make_model(config, 10, 1)
    network = few.params, last_network(run_dir)[2]
    counts = dataset.class_counts
    for c in range(10):
        own = np.flatnonzero(dataset.train.labels == c)[:4]
        images, labels = dataset.train.images[own], dataset.train.labels[own]
        logits = eval_logits(
            config, model, network, {}, images, dataset.mean, dataset.std
        )
        losses = make_loss(config, counts)(logits, jnp.asarray(labels), jnp.asarray(1))
        found = few.losses.values(few.params)[c] / few.shares[c]
        np.testing.assert_allclose(found, losses.mean(), rtol=1e-4)
    # With a limit above the class sizes, all training images are used.
    whole, all_of_it = (
        open_subject(run_dir, runs, mesh, images_per_class=n) for n in (None, 1000)
    )
    np.testing.assert_allclose(
        whole.losses.values(whole.params), all_of_it.losses.values(all_of_it.params)
    )


def test_several_processes_do_not_measure_while_they_train(monkeypatch):
    config = get_config("digits_lt", "sgd").replace(sharpness_every=1)
    classes.check_sharpness(config)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="--sharpness-every 0"):
        classes.check_sharpness(config)


def subject(groups, counts):
    losses = None
    return Subject(losses, None, np.array(counts), np.array(groups))


def test_a_group_weighs_its_classes_alike():
    of_three = subject(["many", "few", "few"], [80, 15, 5])
    np.testing.assert_allclose(of_three.weights("many"), [100 / 80, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(
        of_three.weights("few"), [0, 100 / 15 / 2, 100 / 5 / 2], rtol=1e-6
    )
    np.testing.assert_allclose(of_three.weights("all"), 1)
    assert of_three.weights("medium") is None


def test_a_class_without_images_has_no_share_and_no_weight():
    one_empty = subject(["many", "few", "few"], [90, 10, 0])
    np.testing.assert_allclose(one_empty.weights("few"), [0, 10, 0])
    assert np.isnan(class_shares(np.array([90, 10, 0]))[2])
    means = classes.by_shot(np.array([1.0, 3.0, np.nan]), one_empty.groups)
    assert means == {"many": 1.0, "medium": None, "few": 3.0}


def measured(name, values, seeds=None, method=None):
    numbers = [
        {
            "groups": {
                shot: dict.fromkeys((m.name for m in MEASURES), value)
                if shot == "few"
                else {}
                for shot in GROUPS
            }
        }
        for value in values
    ]
    seeds = seeds or [(seed, seed) for seed in range(len(values))]
    return Measured(name, method or name, seeds, numbers)


def test_words_say_who_is_flatter_and_who_is_not():
    groups = [
        measured("sgd", [1.0, 1.1, 0.9]),
        measured("sam", [0.5, 0.6, 0.4]),
        measured("focal_sam", [1.5, 1.6, 1.4]),
        measured("imbsam", [0.9, 1.3, 0.7]),
    ]
    first, *others = verdict(groups, ["few"], RADII)
    assert len(others) == 3
    assert others[-1].startswith("Compared with sgd by 95 % t-intervals over paired")
    assert first.startswith(
        "few-shot classes, worst rise of the loss within 0.05: flattest first, "
        "sam 0.5 ± 0.1, imbsam 0.967 ± 0.31, sgd 1 ± 0.1, focal_sam 1.5 ± 0.1."
    )
    assert "Flatter than sgd: sam." in first
    assert "Sharper than sgd: focal_sam." in first
    assert first.endswith("Not told apart from sgd: imbsam.")
    assert "many" not in " ".join(verdict(groups, ["many"], RADII))


def test_a_single_seed_tells_nothing_about_chance():
    groups = [measured("sgd", [1.0]), measured("sam", [0.5])]
    first, *_, last = verdict(groups, ["few"], RADII)
    assert first.endswith("flattest first, sam 0.5, sgd 1.")
    told = "Not compared with sgd, because fewer than two seeds are shared: sam."
    assert last == told
    # Pairs need equal seeds.
    groups = [
        measured("sgd", [1.0, 2.0]),
        measured("sam", [0.5, 0.6], [(7, 7), (8, 8)]),
    ]
    assert verdict(groups, ["few"], RADII)[-1] == told


def test_without_sgd_the_first_is_compared_with():
    groups = [measured("sam", [1.0, 1.01]), measured("focal_sam", [0.5, 0.52])]
    first, *_ = verdict(groups, ["few"], RADII)
    assert "Flatter than sam" in first
    assert len(verdict(groups[:1], ["few"], RADII)) == 3


def test_tables_leave_out_groups_that_nobody_has():
    rows = summaries([measured("sgd", [1.0, 1.2]), measured("sam", [0.5])])
    made = tables(rows, RADII)
    assert [table.header for table in made] == [("", "seeds", "few")] * len(MEASURES)
    assert made[0].rows == [("sgd", "2", "1.1 ± 0.14"), ("sam", "1", "0.5")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--rho", "-1", "{run}"], "--rho must be at least 0, got -1.0"),
        (["--grid", "1", "{run}"], "--grid must be at least 2, got 1"),
    ],
)
def test_mistakes_end_in_one_sentence(tmp_path, options, said):
    write_run(tmp_path / "run", accuracy=0.5)
    options = [option.format(run=tmp_path / "run") for option in options]
    out = tmp_path / "out"
    status, output = finish(start("analyze", *options, "--out", out))
    assert status == 2 and said in output.replace("\n", " ")
    assert "Traceback" not in output and not out.exists()


def test_a_run_without_a_checkpoint_is_named(tmp_path):
    write_run(tmp_path / "run", accuracy=0.5)
    job = analyze.Job(run_dirs=(tmp_path / "run",), out=tmp_path / "out")
    with pytest.raises(UserError, match="has no checkpoint"):
        analyze.run(job, Console(quiet=True))


def test_runs_on_other_data_are_not_compared(tmp_path):
    write_run(tmp_path / "digits", accuracy=0.5)
    write_run(tmp_path / "cifar", accuracy=0.5, config="cifar10_lt")
    job = analyze.Job(run_dirs=(tmp_path,), out=tmp_path / "out")
    with pytest.raises(UserError, match="cifar10, digits"):
        analyze.run(job, Console(quiet=True))


def test_nothing_is_overwritten(tmp_path):
    write_run(tmp_path / "run", accuracy=0.5)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    job = analyze.Job(run_dirs=(tmp_path / "run",), out=tmp_path / "out")
    with pytest.raises(UserError, match="nothing is overwritten"):
        analyze.run(job, Console(quiet=True))
