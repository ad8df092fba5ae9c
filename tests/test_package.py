"""Tests that the package holds only the library, and needs only its dependencies."""

import json
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib.metadata import PathDistribution, distribution
from pathlib import Path

import pytest
from commands import PATIENCE
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import focal_sam_jax as fsam

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "focal_sam_jax").rglob("*.py"))
LIBRARY = {path.relative_to(ROOT).as_posix() for path in MODULES}
LIBRARY |= {"focal_sam_jax/py.typed"}
FULL_NAME = f"focal_sam_jax-{fsam.__version__}"
DEPENDENCIES = {"jax", "optax", "chex"}


def run(*command, cwd):
    """Runs a command without the tests' paths and devices; returns its output."""
    hidden = {"PYTHONPATH", "XLA_FLAGS"}
    inherited = {k: v for k, v in os.environ.items() if k not in hidden}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=inherited | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(target, source, folder):
    hatchling = [sys.executable, "-m", "hatchling"]
    run(*hatchling, "build", "--target", target, "--directory", folder, cwd=source)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    build("sdist", ROOT, folder)
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory):
    """Builds from the sdist, which must hold everything needed."""
    source, folder = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    with tarfile.open(sdist) as archive:
        archive.extractall(source, filter="data")
    build("wheel", source / FULL_NAME, folder)
    (file,) = folder.iterdir()
    return file


def test_the_sdist_holds_the_library_alone(sdist):
    with tarfile.open(sdist) as archive:
        names = {member.name for member in archive if not member.isdir()}
    # The builder adds .gitignore, so that builds from the sdist omit the same files.
    others = {"LICENSE", "README.md", "pyproject.toml", "PKG-INFO", ".gitignore"}
    assert names == {f"{FULL_NAME}/{name}" for name in LIBRARY | others}


def test_the_wheel_holds_the_library_alone(wheel):
    about = {"METADATA", "WHEEL", "RECORD", "licenses/LICENSE"}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert names == LIBRARY | {f"{FULL_NAME}.dist-info/{name}" for name in about}


def test_the_wheel_says_what_it_is_and_needs(wheel):
    packed = PathDistribution(zipfile.Path(wheel, f"{FULL_NAME}.dist-info/"))
    assert canonicalize_name(packed.metadata["Name"]) == "focal-sam-jax"
    assert packed.version == fsam.__version__
    assert packed.metadata["License-Expression"] == "Apache-2.0"
    assert packed.metadata["License-File"] == "LICENSE"
    assert set(needs(packed)) == DEPENDENCIES


def needs(packed):
    """Yields the names of a distribution's requirements, without extras."""
    for requirement in map(Requirement, packed.requires or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


def with_all_that_they_need(names):
    found, missing = {}, set(names)
    while missing:
        name = missing.pop()
        found[name] = distribution(name)
        missing |= set(needs(found[name])) - found.keys()
    return found.values()


def bare_environment(folder):
    """Makes an environment with only the dependencies; returns its interpreter.

    The dependencies are links to installed ones: same versions, no download.
    """
    venv.create(folder, with_pip=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    for dependency in with_all_that_they_need(DEPENDENCIES):
        files = {file.parts[0] for file in dependency.files or []}
        for name in files - {"..", "__pycache__"}:
            (packages / name).symlink_to(dependency.locate_file(name))
    return folder / "bin" / "python"


RUN_DOCTESTS = """
import doctest, importlib, importlib.util, json, pkgutil, sys, warnings
import focal_sam_jax as fsam

inside = pkgutil.walk_packages(fsam.__path__, "focal_sam_jax.")
modules = [fsam, *(importlib.import_module(module.name) for module in inside)]
warnings.simplefilter("error")
results = [doctest.testmod(module) for module in modules]
report = {
    "file": fsam.__file__,
    "failed": sum(result.failed for result in results),
    "run": sum(result.attempted for result in results),
    "importable": [name for name in sys.argv[1:] if importlib.util.find_spec(name)],
}
print(json.dumps(report))
"""


@pytest.mark.slow
def test_the_wheel_works_where_its_dependencies_alone_are(wheel, tmp_path):
    python = bare_environment(tmp_path / "bare")
    # Without an index, pip fails if the wheel needs anything else.
    install = ["pip", "--isolated", "install", "--no-index", wheel]
    run(python, "-I", "-m", *install, cwd=tmp_path)
    others = ["flax", "experiments", "tests", "matplotlib", "orbax", "torch"]
    output = run(python, "-I", "-c", RUN_DOCTESTS, *others, cwd=tmp_path)
    report = json.loads(output.splitlines()[-1])
    prompts = re.compile(r"^ *>>> ", re.MULTILINE)
    assert Path(report["file"]).is_relative_to(tmp_path), report
    assert report["run"] == sum(
        len(prompts.findall(path.read_text())) for path in MODULES
    )
    assert report["failed"] == 0, output
    assert report["importable"] == []
