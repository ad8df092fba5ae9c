"""Tests of the documentation: it is complete, its code runs, and it builds."""

import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from commands import PATIENCE

import focal_sam_jax as fsam

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = (DOCS / "api.rst").read_text()
# Pages whose code runs as it is, in reading order.
RUNNING = ["../README.md"] + [
    f"{name}.md" for name in ("flax", "devices", "recipes", "sharpness", "results")
]


def public_names():
    """Yields all public names; a module is replaced by its own names."""
    for name in fsam.__all__:
        value = getattr(fsam, name)
        if inspect.ismodule(value):
            yield from ((value.__name__, inner) for inner in value.__all__)
        else:
            yield fsam.__name__, name


def documented_names():
    module = None
    for directive, name in re.findall(
        r"^\.\. (currentmodule|autofunction|autoclass):: ([\w.]+)", REFERENCE, re.M
    ):
        if directive == "currentmodule":
            module = name
        else:
            yield module, name


def test_every_public_name_is_documented_once():
    documented = list(documented_names())
    assert len(documented) == len(set(documented)) > 30
    assert set(public_names()) == set(documented)


@pytest.mark.slow
def test_code_on_the_pages_runs():
    namespace = {}
    for page in RUNNING:
        blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S)
        assert blocks
        for block in blocks:
            exec(compile(block, page, "exec"), namespace)


def test_every_page_is_in_the_table_of_contents():
    index = (DOCS / "index.md").read_text()
    listed = set(re.findall(r"^([a-z_]+)$", index, re.M))
    pages = {path.stem for path in DOCS.iterdir() if path.suffix in (".md", ".rst")}
    assert pages - {"index"} == listed


@pytest.mark.slow
def test_it_builds_without_a_warning(tmp_path):
    pytest.importorskip("sphinx", reason="needs focal_sam_jax[docs]")
    options = ["-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *options, DOCS, tmp_path],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "api.html").read_text()
    for module, name in documented_names():
        assert f'id="{module}.{name}"' in page


def test_our_command_beside_the_published_one_is_the_recipe():
    pytest.importorskip("tyro", reason="needs focal_sam_jax[experiments]")
    from experiments.configs import get_config
    from experiments.train import parse

    page = (DOCS / "from_pytorch.md").read_text().replace("\\\n", " ")
    command = re.findall(r"python -m experiments.train (--data cifar10 .*)", page)[0]
    config = parse(shlex.split(command)).config
    assert config == get_config("cifar10_lt", "focal_sam")
