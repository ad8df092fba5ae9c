"""What a manifest says of a run outlives the options of the program that wrote it."""

import json

import pytest

pytest.importorskip("tyro", reason="needs focal_sam_jax[experiments]")

from run_folders import write_run

from experiments.config import Config, bounds_of
from experiments.configs import get_config
from experiments.errors import UserError
from experiments.records.manifest import as_json, check_same_config, config_of
from experiments.reporting.groups import find_groups

CONFIG = get_config("cifar100_lt", "focal_sam")
# What a run of before had, when nothing was asked of these options.
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
    check_same_config(before, wanted)


def test_an_option_that_is_gone_does_not_matter_where_it_was_not_used():
    assert config_of({"config": saved(**GONE)}) == CONFIG
    check_same_config(saved(**GONE), CONFIG)


def test_where_it_was_used_the_run_is_refused():
    manifest = {"config": saved(**GONE | {"mixup": 0.2}), "git_commit": "1a2b"}
    with pytest.raises(UserError, match=r"lacks \(mixup 0\.2\): .* of commit 1a2b"):
        config_of(manifest)
    with pytest.raises(UserError, match="mixup: 0.2 then, None now"):
        check_same_config(manifest["config"], CONFIG)


def test_runs_of_before_and_of_today_make_one_group(tmp_path):
    write_run(tmp_path / "today", accuracy=0.8)
    before = write_run(tmp_path / "before", accuracy=0.7, seed=1)
    manifest = json.loads((before / "manifest.json").read_text())
    manifest["config"] |= GONE
    del manifest["config"]["every"]
    (before / "manifest.json").write_text(json.dumps(manifest))
    by_data, _ = find_groups([tmp_path])
    assert [len(group.runs) for group in by_data["digits"]] == [2]


@pytest.mark.parametrize(("name", "bound"), bounds_of(Config))
def test_a_value_out_of_bounds_is_refused(name, bound):
    wrong = next(value for value in (-1, 31, 2, 2**31) if not bound.holds(value))
    flag = "--" + name.replace("_", "-")
    with pytest.raises(UserError, match=f"{flag} must be {bound.words}, got {wrong}"):
        Config(**{name: wrong})
