"""Tests that manifests stay readable when the options of the program change."""

import json

import numpy as np
import pytest

pytest.importorskip("tyro", reason="needs focal_sam_jax[experiments]")

from run_folders import write_run

from experiments.config import Bound, Config, marks_of
from experiments.configs import get_config
from experiments.data.dataset import Dataset
from experiments.errors import UserError
from experiments.records.manifest import (
    as_json,
    changed_options,
    check_same_data,
    config_of,
)
from experiments.reporting.groups import find_groups

CONFIG = get_config("cifar100_lt", "focal_sam")
# Options that only old manifests contain, with their defaults.
GONE = {"five_crops": False, "randaugment": 0, "cutout": 0, "mixup": 0.0}
GONE["bottleneck"] = None


def saved(config=CONFIG, **changes):
    return json.loads(json.dumps(as_json(config))) | changes


def test_a_configuration_comes_back():
    assert config_of({"config": saved()}) == CONFIG


@pytest.mark.parametrize("option", as_json(CONFIG))
def test_an_option_that_came_later_has_its_default(option):
    before = saved()
    del before[option]
    wanted = CONFIG.replace(**{option: getattr(Config(), option)})
    assert config_of({"config": before}) == wanted
    assert not changed_options(before, wanted)


def test_an_option_that_is_gone_does_not_matter_where_it_was_not_used():
    assert config_of({"config": saved(**GONE)}) == CONFIG
    assert not changed_options(saved(**GONE), CONFIG)


def test_where_it_was_used_the_run_is_refused():
    manifest = {"config": saved(**GONE | {"mixup": 0.2}), "git_commit": "1a2b"}
    with pytest.raises(UserError, match=r"lacks \(mixup 0\.2\): .* of commit 1a2b"):
        config_of(manifest)
    with pytest.raises(UserError, match="mixup: 0.2 then, None now"):
        changed_options(manifest["config"], CONFIG)


def test_runs_of_before_and_of_today_make_one_group(tmp_path):
    write_run(tmp_path / "today", accuracy=0.8)
    before = write_run(tmp_path / "before", accuracy=0.7, seed=1)
    manifest = json.loads((before / "manifest.json").read_text())
    manifest["config"] |= GONE
    del manifest["config"]["every"]
    (before / "manifest.json").write_text(json.dumps(manifest))
    by_data, _ = find_groups([tmp_path])
    assert [len(group.runs) for group in by_data["digits"]] == [2]


@pytest.mark.parametrize(("name", "bound"), marks_of(Config, Bound))
def test_a_value_out_of_bounds_is_refused(name, bound):
    wrong = next(value for value in (-1, 31, 2, 2**31) if not bound.holds(value))
    flag = "--" + name.replace("_", "-")
    with pytest.raises(UserError, match=f"{flag} must be {bound.words}, got {wrong}"):
        Config(**{name: wrong})


def test_rates_and_length_may_change_and_nothing_else_beside_them():
    now = CONFIG.with_epochs(400).replace(learning_rate=0.05)
    changed = changed_options(saved(), now)
    assert changed["epochs"] == [200, 400] and changed["learning_rate"] == [0.1, 0.05]
    with pytest.raises(UserError, match=r"\(gamma: .* now\).*Rates, radii"):
        changed_options(saved(), now.replace(gamma=7.0))


def dataset(names=("a", "b", "c"), counts=(30, 20, 10), train_hash="1"):
    nothing = np.zeros(3, np.float32)
    return Dataset(
        None, None, None, np.array(counts), names, nothing, nothing, (), train_hash
    )


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ({"names": ("a", "b", "d")}, r"missing classes: c; new classes: d"),
        ({"names": ("a", "c", "b")}, "in another order"),
        ({"counts": (30, 21, 9)}, "b had 20 images and has 21, class c had 10"),
        ({"train_hash": "2"}, "other names, sizes, classes or another order"),
        (
            {"names": ("a", "b", "c", "d"), "counts": (30, 20, 10, 5)},
            "missing classes: none; new classes: d",
        ),
    ],
)
def test_other_images_than_a_run_began_with_are_named(now, words):
    began = dataset()
    manifest = {
        "class_names": list(began.class_names),
        "class_counts": began.class_counts.tolist(),
        "train_hash": began.train_hash,
    }
    check_same_data(manifest, began)
    with pytest.raises(UserError, match=f"differ from those that .*{words}"):
        check_same_data(manifest, dataset(**now))
    del manifest["train_hash"]  # as in old manifests
    check_same_data(manifest, dataset(train_hash="2"))
