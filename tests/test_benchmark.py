"""Tests of the benchmark: output files, order of runs, time and cost counts."""

import json
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("tyro", reason="needs focal_sam_jax[experiments]")

from rich.console import Console

from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import epoch, growth, jax_steps
from experiments.benchmark import many_seeds as seeds
from experiments.benchmark import sections as parts
from experiments.benchmark.contestant import Contestant, interleave, milliseconds
from experiments.benchmark.jax_steps import (
    build,
    compile_step,
    compiled_costs,
    repeatedly,
)
from experiments.benchmark.workload import Workload
from experiments.errors import UserError

TINY = {"model": ("vit_digits",), "batch_size": (4,), "frameworks": ("jax",)}
QUICK = {"repeats": 2, "seconds": 0.0}
# Fields that readers of the file need.
FIELDS = "framework model method batch_size dtype ms_median ms_min ms_max".split()
FIELDS += "examples_per_s flops peak_bytes compile_s".split()


def run(path, **options):
    job = benchmark.Job(out=path, **{**TINY, **QUICK, **options})
    benchmark.run(job, Console(quiet=True))
    return json.loads(path.read_text())


def refused(**options):
    with pytest.raises(UserError) as error:
        benchmark.run(benchmark.Job(**options), Console(quiet=True))
    return str(error.value)


@pytest.mark.slow
def test_steps_of_every_method_leave_rows_a_table_and_a_figure(tmp_path):
    path = tmp_path / "new" / "results.json"
    methods = ("sam", "sgd", "focal_sam")
    results = run(path, methods=methods, precision=("bfloat16",))
    assert [row["method"] for row in results["rows"]] == list(methods)
    for row in results["rows"]:
        assert row.keys() >= set(FIELDS)
        assert row["ms_min"] <= row["ms_median"] <= row["ms_max"]
        assert row["examples_per_s"] == pytest.approx(4e3 / row["ms_median"])
        assert row["flops"] > 0 and row["peak_bytes"] > 0 and row["compile_s"] > 0
    sam, sgd, _ = results["rows"]
    assert sam["ratio_sam"] == sgd["ratio_sgd"] == 1
    assert sam["ratio_sgd"] * sgd["ratio_sam"] == pytest.approx(1)
    assert results["device"]["cores"] and results["versions"]["jax"] == jax.__version__
    table = path.with_suffix(".md").read_text()
    assert "### vit_digits, batch 4, bfloat16" in table and "focal_sam" in table
    assert path.with_suffix(".png").stat().st_size > 10_000


@pytest.mark.slow
def test_on_two_devices_the_passes_are_not_in_memory_at_once():
    workload = Workload("resnet20", 32, "float32")
    point = growth.Point("devices", workload, devices=2)
    sgd, ours = (
        growth.growth_step(point, method).costs["peak_bytes"]
        for method in ("sgd", "focal_sam")
    )
    # Concurrent passes would need twice as much.
    assert ours <= 1.2 * sgd


@pytest.mark.slow
def test_the_other_parts_leave_theirs(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "CLASSES", (30,))
    monkeypatch.setattr(growth, "BATCH_SIZES", ())
    monkeypatch.setattr(growth, "DEPTHS", ())
    monkeypatch.setattr(growth, "DEVICES", (2,))
    monkeypatch.setattr(seeds, "SEEDS", (1, 3))
    methods = ("sgd",)
    results = run(tmp_path / "r.json", methods=methods, sections=("seeds", "growth"))
    assert results["rows"] == []
    of_seeds = [(row["method"], row["seeds"]) for row in results["seeds"]]
    assert of_seeds == [(method, n) for method in methods for n in (1, 3)]
    assert results["seeds"][0]["ratio_one_seed"] == 1
    of_growth = {
        (row["over"], row["value"], row["method"]) for row in results["growth"]
    }
    assert of_growth == {("devices", 2, "sgd"), ("classes", 30, "sgd")}
    table = (tmp_path / "r.md").read_text()
    assert "## Seeds" in table and "## Growth" in table and "## Steps" not in table
    assert (tmp_path / "r.png").stat().st_size > 10_000


def test_cc_sam_is_left_out_of_many_classes_and_convolutions_on_cpu(monkeypatch):
    few, many = Workload("resnet32", 64, "float32"), {"num_classes": 1000}
    assert growth.can_run(growth.Point("batch_size", few), "cc_sam")
    point = growth.Point("classes", few._replace(**many))
    assert growth.can_run(point, "focal_sam")
    assert not growth.can_run(point, "cc_sam") and not growth.can_run(
        point, "cc_sam_head"
    )
    no_convolutions = few._replace(model="vit_digits", **many)
    assert growth.can_run(growth.Point("classes", no_convolutions), "cc_sam")
    # On GPU, convolutions are as fast in a loop.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert growth.can_run(point, "cc_sam")


def test_only_what_can_be_deepened_is():
    def grows(model):
        return {p.over for p in growth.points(Workload(model, 8, "float32"))}

    assert grows("resnet20") - grows("vit_digits") == {"parameters"}


@pytest.mark.slow
def test_seeds_train_as_one_would():
    workload = Workload("vit_digits", 4, "float32")
    step, state, arguments = build(workload, "focal_sam")
    one = jax.jit(step)(state, *arguments)
    captured = {}

    def keep(compiled, state, arguments):
        captured["state"] = compiled(state, *arguments)
        return lambda turns: None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax_steps, "repeatedly", keep)
        seeds.seeds_step(workload, "focal_sam", 2)
    for ours, alone in zip(
        jax.tree.leaves(captured["state"].params),
        jax.tree.leaves(one.params),
        strict=True,
    ):
        np.testing.assert_allclose(ours[1], alone, rtol=2e-4, atol=2e-6)


@pytest.mark.slow
def test_an_epoch_is_the_experiments_own(tmp_path, monkeypatch):
    monkeypatch.setattr(epoch, "_CLASSES", 4)
    monkeypatch.setattr(epoch, "_LARGEST", 10)
    monkeypatch.setattr(epoch, "_FACTOR", 2.0)
    options = {"model": ("resnet20",), "batch_size": (8,), "methods": ("sgd",)}
    results = run(
        tmp_path / "r.json", sections=("epoch",), data_dir=tmp_path / "none", **options
    )
    (row,) = results["epochs"]
    assert row["steps"] == (10 + 7 + 6 + 5) // 8
    assert row["s_median"] > 0 and results["real_images"] is False
    assert "random pixels" in (tmp_path / "r.md").read_text()


def test_the_epoch_has_the_size_of_cifar100_lt(tmp_path):
    workload = Workload("resnet32", 64, "float32")
    data, real = epoch.cifar100_lt(epoch.epoch_config(workload, "sgd"), tmp_path)
    assert not real
    assert data.train.images.shape == (10_847, 32, 32, 3)
    assert data.class_counts.tolist() == np.bincount(data.train.labels).tolist()


class FakeClock:
    """A clock that advances by the duration of each run."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def contestant(self, name, seconds):
        def run(turns):
            self.calls.append((name, turns))
            self.now += turns * seconds

        return Contestant({"method": name}, run, {})

    def __call__(self):
        return self.now


def test_everyone_has_a_turn_in_every_round_and_order_alternates():
    clock = FakeClock()
    players = [clock.contestant("fast", 0.03), clock.contestant("slow", 1.0)]
    options = {"clock": clock, "progress": lambda text: None, "until": np.inf}
    timings = interleave(players, repeats=3, seconds=0.1, **options)
    np.testing.assert_allclose(timings, [[0.03] * 3, [1.0] * 3])
    warm_up, rounds = clock.calls[:4], clock.calls[4:]
    assert warm_up == [("fast", 1)] * 2 + [("slow", 1)] * 2
    # Short turns are repeated until they can be measured.
    first, second = ("fast", 4), ("slow", 1)
    assert rounds == [first, second, second, first, first, second]


def test_when_the_time_is_up_no_further_round_begins():
    clock = FakeClock()
    players = [clock.contestant("one", 1.0), clock.contestant("two", 2.0)]
    options = {"clock": clock, "progress": lambda text: None, "until": 10.0}
    # After 6 seconds of warm-up, two rounds of 3 seconds.
    timings = interleave(players, repeats=9, seconds=0.5, **options)
    assert timings == [[1.0, 1.0], [2.0, 2.0]]
    # The first round is always made.
    assert interleave(players, repeats=9, seconds=0.5, **options) == [[1.0], [2.0]]


def test_what_does_not_fit_into_the_minutes_is_named(tmp_path):
    path = tmp_path / "r.json"
    assert run(path, minutes=0)["left_out"] == ["steps"]
    assert "Left out for lack of time: steps." in path.with_suffix(".md").read_text()


def test_a_median_is_of_the_rounds():
    got = milliseconds([0.003, 0.001, 0.010])
    assert got == pytest.approx({"ms_median": 3.0, "ms_min": 1.0, "ms_max": 10.0})


def test_ratios_are_to_the_same_framework_and_workload():
    def row(framework, method, time, batch_size=4):
        return {
            "framework": framework,
            "method": method,
            "ms_median": time,
            "model": "m",
            "batch_size": batch_size,
            "dtype": "float32",
        }

    rows = parts.with_ratios(
        [
            row("jax", "sgd", 2.0),
            row("jax", "focal_sam", 5.0),
            row("torch", "focal_sam", 5.0),
            row("torch", "sgd", 1.0),
            row("jax", "focal_sam", 9.0, batch_size=8),
        ]
    )
    assert [row["ratio_sgd"] for row in rows] == [1.0, 2.5, 5.0, 1.0, None]
    assert {row["ratio_sam"] for row in rows} == {None}


def test_flops_and_bytes_of_a_product_are_counted_exactly():
    def step(state, matrix):
        return state @ matrix

    state, matrix = jnp.ones((64, 32)), jnp.ones((32, 32))
    # Compilation takes more than no time.
    compiled, seconds = compile_step(step, state, matrix)
    costs = compiled_costs(compiled)
    assert seconds > 0
    assert costs["flops"] == 2 * 64 * 32 * 32
    # The state is donated: input and output share memory.
    assert costs["peak_bytes"] >= 4 * (64 * 32 + 32 * 32)
    assert costs["peak_bytes"] <= 4 * (2 * 64 * 32 + 32 * 32)


def test_a_run_goes_on_from_its_state():
    compiled = jax.jit(lambda state, more: state + more)
    seen = []

    def spy(state, more):
        seen.append(int(state))
        return compiled(state, more)

    run = repeatedly(spy, jnp.array(0), (2,))
    run(2)
    run(1)
    assert seen == [0, 2, 4]


@pytest.mark.slow
def test_the_published_cc_sam_moves_the_last_layer_alone():
    config = Workload("vit_digits", 4, "float32").config("cc_sam_head")
    assert config.method == "cc_sam"
    with pytest.MonkeyPatch.context() as patch:
        asked = {}
        patch.setattr(
            "experiments.training.optimizer.fsam.cc_sam",
            lambda counts, mask, **_: asked.update(mask=mask) or _plain(),
        )
        build(Workload("vit_digits", 4, "float32"), "cc_sam_head")
    assert asked["mask"]({"vision": 0, "head": 1}) == {"vision": False, "head": True}


def _plain():
    return SimpleNamespace(init=lambda params: (), update=lambda u, s, p=None: (u, s))


@pytest.mark.slow
def test_what_is_not_shared_is_computed_twice_and_by_jax_alone(tmp_path):
    methods = ("sam", "focal_sam", "focal_sam_unshared")
    results = run(tmp_path / "r.json", methods=methods)
    sam, shared, unshared = (row["flops"] for row in results["rows"])
    assert sam < shared < unshared
    job = benchmark.Job(frameworks=("torch", "jax", "torch_compile"))
    assert benchmark._frameworks(job, "focal_sam") == list(job.frameworks)
    assert benchmark._frameworks(job, "focal_sam_unshared") == ["jax"]
    assert "focal_sam_unshared" not in job.methods


def test_nothing_is_overwritten(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text("mine")
    assert "already exists: name another file" in refused(frameworks=("jax",), out=path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"repeats": 0}, "--repeats must be at least 1, got 0"),
        ({"seconds": -1.0}, "--seconds must be at least 0"),
        ({"seconds": np.nan}, "--seconds must be at least 0, got nan"),
        ({"minutes": np.inf}, "--minutes must be finite, got inf"),
        ({"sections": ("epoch",)}, "must be one of resnet20, .*, got vit_digits"),
        ({"batch_size": ()}, "--batch-size must be at least 1"),
        ({"methods": ()}, "--methods needs at least one value"),
        ({"frameworks": ("jax",), "out": "x.txt"}, "--out must end in .json"),
    ],
)
def test_mistakes_are_explained(options, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "out" in options:
        options = {**options, "out": tmp_path / options["out"]}
    assert re.search(said, refused(**{**TINY, **options}))


def test_pytorch_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(benchmark.importlib.util, "find_spec", lambda name: None)
    assert "pip install -e '.[benchmark]'" in refused(frameworks=("jax", "torch"))
