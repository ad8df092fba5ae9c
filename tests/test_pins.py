"""Tests that CI's packages are pinned, and that versions given twice agree."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
CONSTRAINTS = (ROOT / "constraints.txt").read_text()
PINS = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", CONSTRAINTS, re.MULTILINE))
PINS = {canonicalize_name(name): version for name, version in PINS.items()}
# TensorFlow is only for preparing data, which CI does not do.
PINNED = ["dependencies", *sorted(EXTRAS.keys() - {"prepare"})]


def test_every_line_is_an_exact_public_version():
    lines = [line for line in CONSTRAINTS.splitlines() if not line.startswith("#")]
    assert len(lines) == len(PINS)


@pytest.mark.parametrize("name", PINNED)
def test_every_requirement_is_pinned_within_its_bounds(name):
    for line in (EXTRAS | {"dependencies": PROJECT["dependencies"]})[name]:
        requirement = Requirement(line)
        if requirement.name == PROJECT["name"]:
            continue  # another extra
        pin = PINS[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pin), line


def test_a_commit_is_checked_by_the_ruff_of_ci():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert set(re.findall(r"ruff==([\d.]+)", hooks)) == {PINS["ruff"]}
