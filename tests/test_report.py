"""Tests of the report: choice, grouping and names of runs, and its numbers."""

import dataclasses
import io
import json
import shutil

import numpy as np
import pytest

pytest.importorskip("tyro", reason="needs focal_sam_jax[experiments]")

from commands import finish, start
from rich.console import Console
from run_folders import CLASSES, STEPS_PER_EPOCH, scores, write_run

from experiments import report
from experiments.config import Config
from experiments.configs import get_config
from experiments.errors import UserError
from experiments.metrics import SCORES
from experiments.records.manifest import read_manifest
from experiments.reporting import write
from experiments.reporting.classes import class_accuracies, class_differences
from experiments.reporting.groups import grouped
from experiments.reporting.runs import find_runs, step_seconds
from experiments.reporting.statistics import paired_difference
from experiments.reporting.tables import as_rich, narrow, report_tables

ACCURACY = {
    "sgd": (0.80, 0.82, 0.81),
    "focal_sam": (0.83, 0.87, 0.82),
}
FIGURES = {"accuracy.png", "curves.png", "per_class_accuracy.png"}


@pytest.fixture
def draws():
    """Lets the tests that look at figures draw them."""


@pytest.fixture(autouse=True)
def draws_nothing(request, monkeypatch):
    if "draws" not in request.fixturenames:
        monkeypatch.setattr(write, "_draw", lambda *args: None)


@pytest.fixture
def runs(tmp_path):
    """Two methods with three seeds."""
    for method, values in ACCURACY.items():
        for seed, accuracy in enumerate(values):
            folder = tmp_path / "runs" / f"{method}-{seed}"
            seeds = {"seed": seed, "subset_seed": seed}
            write_run(folder, accuracy=accuracy, method=method, **seeds)
    return tmp_path / "runs"


def make_report(*run_dirs, out):
    console = Console(record=True, width=120, file=io.StringIO())
    report.run(report.Job(run_dirs=run_dirs, out=out), console)
    return json.loads((out / "report.json").read_text()), console.export_text()


def groups_of(*run_dirs):
    found, _ = find_runs(run_dirs)
    return grouped(found)[0]


def names(*run_dirs):
    return [g.name for groups in groups_of(*run_dirs).values() for g in groups]


def test_the_helper_writes_what_experiments_train_writes(runs):
    config = read_manifest(runs / "sgd-0")["config"]
    assert set(config) == {field.name for field in dataclasses.fields(Config)}


def test_means_and_deviations_are_those_of_numpy(runs, tmp_path):
    results, _ = make_report(runs, out=tmp_path / "out")
    groups = results["data"]["digits"]["groups"]
    assert [row["name"] for row in groups] == ["SGD", "Focal-SAM"]
    rows = {row["config"]["method"]: row for row in groups}
    for method, values in ACCURACY.items():
        expected = [scores(a, 10) for a in values]
        for score in (*SCORES, "ece"):
            found = rows[method]["last"][score]
            if score == "accuracy_medium":
                assert found is None
                continue
            of_seeds = [of_seed[score] for of_seed in expected]
            assert found["values"] == of_seeds
            assert found["mean"] == pytest.approx(np.mean(of_seeds))
            assert found["spread"] == pytest.approx(np.std(of_seeds, ddof=1))
        best = rows[method]["best"]
        assert best["epochs"] == [15, 15, 15]
        assert best["accuracy"]["mean"] == pytest.approx(np.mean(values) + 0.01)
        assert rows[method]["seeds"] == [[0, 0], [1, 1], [2, 2]]
        assert rows[method]["config"]["method"] == method


def test_differences_are_paired_by_seed(runs, tmp_path):
    extra = {"method": "focal_sam", "seed": 7, "subset_seed": 7}
    write_run(runs / "alone", accuracy=0.1, **extra)
    results, _ = make_report(runs, out=tmp_path / "out")
    (row,) = results["data"]["digits"]["differences"]
    difference = np.subtract(ACCURACY["focal_sam"], ACCURACY["sgd"])
    assert row["name"] == "Focal-SAM − SGD"
    assert row["seeds"] == [[0, 0], [1, 1], [2, 2]]
    assert row["accuracy"]["mean"] == pytest.approx(difference.mean())
    half = paired_difference(ACCURACY["focal_sam"], ACCURACY["sgd"]).spread
    assert row["accuracy"]["spread"] == pytest.approx(half)
    assert row["accuracy_medium"] is None


def test_the_baseline_shares_all_that_is_not_of_a_method(tmp_path):
    for loss in ("la", "ce"):
        for method in ("sgd", "sam"):
            write_run(
                tmp_path / f"{method}-{loss}", accuracy=0.8, method=method, loss=loss
            )
    lone = tmp_path / "lone"
    write_run(lone, accuracy=0.8, method="sam", loss="la", epochs=30)
    results, _ = make_report(tmp_path, out=tmp_path / "out")
    found = {row["name"] for row in results["data"]["digits"]["differences"]}
    assert found == {"SAM, ce − SGD, ce", "SAM, la − SGD, la"}


def test_what_is_compared_with_what(tmp_path):
    for name, changes in {
        "sgd": {},
        "longer": {"epochs": 50},
        "sam": {"method": "sam", "rho": 0.1},
        "focal_sam": {"method": "focal_sam", "rho": 0.2},
        "cheaper": {"method": "focal_sam", "rho": 0.2, "approximation": "looksam"},
    }.items():
        for seed, accuracy in enumerate((0.8, 0.81, 0.8)):
            more = 0.1 * (name == "longer") - 0.1 * (name == "sam")
            seeds = {"seed": seed, "subset_seed": seed}
            folder = tmp_path / f"{name}-{seed}"
            write_run(folder, accuracy=accuracy + more, **changes, **seeds)
    results, said = make_report(tmp_path, out=tmp_path / "out")
    assert [row["name"] for row in results["data"]["digits"]["differences"]] == [
        "SGD, epochs 50 − SGD",
        "SAM − SGD",
        "Focal-SAM, approximation looksam − Focal-SAM",
        "Focal-SAM − SGD",
        "Focal-SAM − SAM",
    ]
    said = " ".join(said.split())
    assert "Helps: SGD, epochs 50 − SGD (3 seeds);" in said
    assert "Hurts: SAM − SGD (3 seeds)." in said
    assert "5 differences were tested, without correction for" in said


def test_of_several_baselines_the_one_most_alike_is_taken(tmp_path):
    write_run(tmp_path / "sam", accuracy=0.8, method="sam", learning_rate=0.3)
    for rate in (0.05, 0.3, 0.5):
        write_run(tmp_path / f"sgd-{rate}", accuracy=0.8, learning_rate=rate)
    results, _ = make_report(tmp_path, out=tmp_path / "out")
    (row,) = results["data"]["digits"]["differences"]
    assert row["name"] == "SAM − SGD, learning rate 0.3"


def test_a_group_is_what_differs_in_seeds_alone(tmp_path):
    same = {"accuracy": 0.8, "method": "sam"}
    write_run(tmp_path / "a", **same, seed=0, eval_every=1, checkpoint_every=1)
    write_run(tmp_path / "b", **same, seed=1, eval_every=5, checkpoint_every=7)
    write_run(tmp_path / "c", **same, seed=1, subset_seed=4)
    write_run(tmp_path / "d", **same, weight_decay=0.5)
    sizes = {g.name: len(g.runs) for g in groups_of(tmp_path)["digits"]}
    assert sizes == {"SAM, weight decay 0.005": 3, "SAM, weight decay 0.5": 1}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([{}], ["SGD"]),
        ([{"method": "focal_sam"}, {}, {"method": "sam"}], ["SGD", "SAM", "Focal-SAM"]),
        ([{"loss": "la"}, {"loss": "ce"}], ["SGD, ce", "SGD, la"]),
        (
            [{"method": "sam", "rho": 0.3}, {"method": "sam", "rho": 0.05}, {}],
            ["SGD", "SAM, rho 0.05", "SAM, rho 0.3"],
        ),
        (
            [{"drw_start": None}, {"drw_start": 5}],
            ["SGD, drw start none", "SGD, drw start 5"],
        ),
        (
            [{"milestones": ()}, {"milestones": (3, 6)}],
            ["SGD, milestones none", "SGD, milestones 3 6"],
        ),
        (
            [{"rho": r, "gamma": g} for r in (0.1, 0.2) for g in (1.0, 2.0)],
            [f"SGD, rho {r}, gamma {g}" for r in (0.1, 0.2) for g in (1, 2)],
        ),
    ],
)
def test_names_say_what_sets_groups_apart(tmp_path, changes, expected):
    for place, change in enumerate(changes):
        write_run(tmp_path / str(place), accuracy=0.8, **change)
    assert names(tmp_path) == expected


def test_recipes_come_first_in_names(tmp_path):
    write_run(tmp_path / "a", accuracy=0.8, config="cifar10_lt")
    write_run(tmp_path / "b", accuracy=0.8, config="cifar10_lt_if10")
    assert names(tmp_path) == ["cifar10_lt, SGD", "cifar10_lt_if10, SGD"]


def test_table_as_markdown(runs, tmp_path):
    make_report(runs, out=tmp_path / "out")
    text = (tmp_path / "out" / "table.md").read_text()
    assert text.startswith("### digits: test set, last epoch\n\n|  | seeds | overall |")
    assert (
        "\n| SGD | 3 | 81.0 ± 1.0 | 86.0 ± 1.0 | – | 66.0 ± 1.0 | 8.1 ± 0.1 |" in text
    )
    assert "\n| Focal-SAM | 3 | 84.0 ± 2.6 | 89.0 ± 2.6 | – |" in text
    assert "\n### digits: test set, epoch chosen on validation\n" in text
    assert "\n| SGD | 3 | 82.0 ± 1.0 | 87.0 ± 1.0 | – | 67.0 ± 1.0 |" in text
    assert "\n| Focal-SAM − SGD | 3 | +3.0 ± 5.0 | +3.0 ± 5.0 | – |" in text
    assert "Not told apart: Focal-SAM − SGD (3 seeds). 1 difference was" in text
    assert "more than 40 training examples are many-shot, with fewer than 10" in text
    heading, *settings = text.split("### ")[-1].splitlines()
    assert heading == "digits: settings in which the rows differ"
    assert settings[1] == "|  | rho | gamma | learning_rate |"
    assert settings[3] == "| SGD | – | – | 0.1 |"
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith(" |")


def test_one_seed_has_no_deviation(tmp_path):
    write_run(tmp_path / "sgd", accuracy=0.8, validation=False)
    write_run(tmp_path / "sam", accuracy=0.9, method="sam", validation=False)
    results, _ = make_report(tmp_path, out=tmp_path / "out")
    text = (tmp_path / "out" / "table.md").read_text()
    assert "| SGD | 1 | 80.0 | 85.0 | – | 65.0 |" in text
    assert "| SAM − SGD | 1 | +10.0 |" in text
    assert "One seed is not enough: SAM − SGD (1 seed)." in text
    assert "chosen on validation" not in text
    (row, _) = results["data"]["digits"]["groups"]
    assert row["last"]["accuracy"]["spread"] is None and row["best"] is None


def test_tables_fit_a_terminal():
    numbers = {n: {"mean": 0.955, "spread": 0.087} for n in (*SCORES, "ece")}
    row = {
        "name": "focal_sam",
        "seeds": [[0, 0], [1, 1], [2, 2]],
        "config": dataclasses.asdict(get_config("digits_lt", "focal_sam")),
        "last": numbers,
        "best": {**numbers, "epochs": [145, 150, 155]},
        "step_seconds": 1.2345,
    }
    difference = {"name": "Focal-SAM − SGD", "seeds": row["seeds"], **numbers}
    tables = list(report_tables("digits", [row], [difference]))
    assert len(tables) == 3
    for table in tables:
        console = Console(record=True, width=80, file=io.StringIO())
        console.print(as_rich(table))
        text = console.export_text()
        name, *values = table.rows[-1]
        for part in (*name.split(), *map(narrow, values)):
            assert part in text


def test_the_time_of_a_step_leaves_out_the_epoch_that_compiles(tmp_path):
    write_run(tmp_path / "run", accuracy=0.8)
    ((run,), _) = find_runs([tmp_path])
    # The first epoch takes 30 s, each later one 0.902 s to 0.920 s.
    assert step_seconds(run.rows) == pytest.approx(0.911 / STEPS_PER_EPOCH)


def test_folders_are_found_one_level_deep_and_once(runs, tmp_path):
    write_run(runs / "deep" / "er" / "run", accuracy=0.5)
    found, left_out = find_runs([runs, runs / "sgd-0", runs / ".." / "runs"])
    assert len(found) == 6 and not left_out


def test_a_run_that_repeats_another_is_left_out(runs, tmp_path):
    twin = {"method": "sgd", "seed": 0, "subset_seed": 0}
    write_run(runs / "twin", accuracy=0.1, **twin)
    results, output = make_report(runs, out=tmp_path / "out")
    why = f"same settings and seeds as {runs / 'sgd-0'}"
    assert results["left_out"] == {str(runs / "twin"): why}
    values = results["data"]["digits"]["groups"][0]["last"]["accuracy"]["values"]
    assert values == list(ACCURACY["sgd"])
    assert "left out" in output


def test_an_unfinished_run_is_left_out(runs, tmp_path):
    write_run(runs / "half", accuracy=0.8, seed=9, finished=False)
    with (runs / "half" / "metrics.jsonl").open("a") as file:
        file.write('{"split": "tra')
    results, output = make_report(runs, out=tmp_path / "out")
    assert list(results["left_out"]) == [str(runs / "half")]
    assert "not finished" in output
    assert len(results["data"]["digits"]["groups"]) == 2


def test_what_another_command_left_is_left_out(runs, tmp_path):
    other = runs / "compare"
    other.mkdir()
    (other / "manifest.json").write_text('{"config": {}, "seeds": [0]}')
    results, _ = make_report(runs, out=tmp_path / "out")
    assert results["left_out"] == {str(other): "not a run of experiments.train"}


def test_a_comparison_stands_for_its_runs(runs, tmp_path):
    comparison = tmp_path / "comparison"
    shutil.copytree(runs, comparison / "runs")
    (comparison / "manifest.json").write_text('{"tuned_anew": false}')
    results, _ = make_report(comparison, out=tmp_path / "out")
    assert len(results["data"]["digits"]["groups"]) == 2


def test_data_sets_have_tables_and_figures_of_their_own(runs, tmp_path, draws):
    cifar = tmp_path / "cifar"
    counts = np.floor(500 * 100 ** (-np.arange(100) / 99)).astype(int)
    write_run(cifar, accuracy=0.5, config="cifar100_lt", method="sam", counts=counts)
    results, _ = make_report(runs, cifar, out=tmp_path / "out")
    assert set(results["data"]) == {"cifar100", "digits"}
    assert [g["name"] for g in results["data"]["cifar100"]["groups"]] == ["SAM"]
    written = {path.name for path in (tmp_path / "out").glob("*.png")}
    stems = [name.removesuffix(".png") for name in FIGURES]
    assert written == {f"{stem}-{place}.png" for stem in stems for place in (1, 2)}
    text = (tmp_path / "out" / "table.md").read_text()
    assert "### cifar100: test set, last epoch" in text
    assert "### digits: test set, last epoch" in text


def test_classes_are_averaged_by_rank_where_the_subset_moves_them(tmp_path):
    counts = np.array([100, 60, 30, 15, 8, 4])
    orders = [np.arange(6), np.array([3, 0, 5, 1, 4, 2])]
    for seed, order in enumerate(orders):
        folder = write_run(
            tmp_path / str(seed),
            accuracy=0.8,
            seed=seed,
            subset_seed=seed,
            counts=counts[order],
        )
        rows = (folder / "metrics.jsonl").read_text().splitlines()
        tested = json.loads(rows[-2])
        by_rank = np.linspace(0.9, 0.4, 6) + 0.02 * seed
        tested["accuracy_per_class"] = [float(by_rank[rank]) for rank in order]
        rows[-2] = json.dumps(tested)
        (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    found = class_accuracies(groups_of(tmp_path)["digits"])
    assert found["SGD"] == pytest.approx(np.linspace(0.9, 0.4, 6) + 0.01)


def test_differences_of_classes_are_paired_by_seed(tmp_path):
    rates = {"sgd": [0.5, 0.6, 0.7], "sam": [0.6, 0.6, 0.9]}
    for method, of_seeds in rates.items():
        for seed, rate in enumerate(of_seeds):
            folder = write_run(
                tmp_path / f"{method}-{seed}",
                accuracy=0.8,
                method=method,
                seed=seed,
                subset_seed=seed,
            )
            rows = (folder / "metrics.jsonl").read_text().splitlines()
            tested = json.loads(rows[-2])
            size = len(tested["accuracy_per_class"])
            tested["accuracy_per_class"] = [rate, *[0.8] * (size - 2), None]
            rows[-2] = json.dumps(tested)
            (folder / "metrics.jsonl").write_text("\n".join(rows) + "\n")
    found = class_differences(groups_of(tmp_path)["digits"])
    assert list(found) == ["SAM"]
    means, halves = found["SAM"]
    expected = paired_difference(rates["sam"], rates["sgd"])
    assert [means[0], halves[0]] == pytest.approx(list(expected))
    assert means[1] == halves[1] == 0 and np.isnan(means[-1])


def test_brackets_in_a_name_are_text(tmp_path):
    data = {"data": "folder:/my[red]data", "imbalance": "natural"}
    folder = write_run(tmp_path / "[bold]", accuracy=0.8, **data)
    write_run(tmp_path / "[half]", accuracy=0.8, finished=False)
    _, output = make_report(tmp_path, out=tmp_path / "out")
    assert "folder:/my[red]data: test set, last epoch" in output
    assert f"left out: {folder.parent / '[half]'}, not finished" in output


def test_without_common_class_counts_no_figure_by_class(tmp_path, draws):
    write_run(tmp_path / "a", accuracy=0.8, imbalance_factor=30.0)
    other = np.array([100, 80, 60, 40, 30, 20, 15, 12, 11, 10])
    write_run(tmp_path / "b", accuracy=0.8, imbalance_factor=10.0, counts=other)
    make_report(tmp_path, out=tmp_path / "out")
    written = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert written == FIGURES - {"per_class_accuracy.png"}


def break_line(runs):
    path = runs / "sgd-1" / "metrics.jsonl"
    lines = path.read_text().split("\n")
    lines[3] = lines[3][:20]
    path.write_text("\n".join(lines))
    return runs


def unfinished(runs):
    return write_run(runs / "new", accuracy=0.8, finished=False)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda runs: runs / "missing", "missing contains no run: pass the --run-dir"),
        (lambda runs: runs.parent, "contains no run"),
        (break_line, r"line 4 of .*sgd-1/metrics.jsonl is not a row of metrics"),
        (unfinished, r"there is no finished run to report \(.*new: not finished"),
    ],
)
def test_a_users_mistake_is_explained(runs, tmp_path, prepare, words):
    with pytest.raises(UserError, match=words):
        make_report(prepare(runs), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_report_beside_the_runs_is_no_run(runs, tmp_path):
    """A second ``runs/*`` matches the report."""
    make_report(runs, out=runs / "report")
    results, _ = make_report(*sorted(runs.iterdir()), out=tmp_path / "out")
    assert results["left_out"] == {str(runs / "report"): "contains no run"}


@pytest.mark.parametrize("content", ["", "[]", '{"config": '])
def test_a_damaged_manifest_is_named(runs, tmp_path, content):
    (runs / "sgd-1" / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=r"sgd-1/manifest\.json (cannot be read|must)"):
        make_report(runs, out=tmp_path / "out")


def test_what_a_crash_left_at_the_end_does_not_matter(runs, tmp_path):
    before, _ = make_report(runs, out=tmp_path / "before")
    with (runs / "sgd-1" / "metrics.jsonl").open("a") as file:
        file.write('{"split": "tra\n' + "\0" * 100 + "\n" + "\0" * 50)
    after, _ = make_report(runs, out=tmp_path / "after")
    assert before == after


def test_a_report_is_never_overwritten(runs, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty, and nothing is overwritten"):
        make_report(runs, out=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "runs"}


def test_every_report_has_a_folder_of_its_own(runs, tmp_path, monkeypatch, draws):
    monkeypatch.chdir(tmp_path)
    console = Console(file=io.StringIO())
    for name in ("report", "report-2"):
        assert report.run(report.Job(run_dirs=(runs,)), console).name == name
        written = {path.name for path in (runs / name).iterdir()}
        assert written == FIGURES | {"table.md", "report.json"}


def test_the_command(runs, tmp_path):
    out = tmp_path / "out"
    folders = (runs / "sgd-0", runs / "sgd-1", runs / "focal_sam-0")
    status, output = finish(start("report", *folders, "--out", out))
    assert status == 0, output
    assert "81.0 ±1.4" in output and f"Everything is in {out}.\n" in output
    for figure in FIGURES:
        assert (out / figure).read_bytes()[1:4] == b"PNG"


@pytest.mark.slow
def test_the_command_without_a_folder():
    status, output = finish(start("report"))
    assert status == 2
    assert output == (
        "starting\n"
        "error: no RUN_DIR was given: pass folders of runs, such as runs/* or runs.\n"
    )


def test_thresholds_are_those_of_what_was_not_held_out(tmp_path):
    counts = np.linspace(4500, 45, CLASSES).astype(int)
    config = {"config": "cifar10_lt", "held_out": 0.1, "counts": counts}
    write_run(tmp_path / "runs" / "a", accuracy=0.5, **config)
    _, text = make_report(tmp_path / "runs", out=tmp_path / "out")
    assert "more than 900 training examples" in " ".join(text.split())


def test_a_whole_number_is_the_same_setting_with_and_without_its_point(tmp_path):
    for seed, rho in enumerate((1, 1.0, 0.5)):
        changes = {"method": "sam", "rho": rho, "seed": seed}
        write_run(tmp_path / "runs" / str(seed), accuracy=0.5, **changes)
    assert len(names(tmp_path / "runs")) == 2
