"""Tests of the README: Python blocks, test command, links and citation."""

import re
from pathlib import Path

import pytest

import focal_sam_jax as fsam

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_python_blocks_run_in_order():
    pytest.importorskip("flax", reason="needs focal_sam_jax[experiments]")
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    namespace = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)


def test_continuous_integration_runs_the_test_command_of_the_readme():
    (command,) = re.findall(r"^(.*python -m pytest -n auto.*)$", README, re.MULTILINE)
    assert command.startswith("python3 -m venv")
    line = "bash -ec \"$(grep --max-count=1 'python -m pytest -n auto' README.md)\""
    assert line in (ROOT / ".ci" / "run").read_text()


def test_links_to_files_lead_somewhere():
    for target in re.findall(r"\]\((?!http|#)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_version_stands_in_the_change_log_and_the_citation_file():
    yaml = pytest.importorskip("yaml", reason="needs focal_sam_jax[experiments]")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    date = citation["date-released"]
    first = re.search(r"^## .*$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation["version"] == fsam.__version__
    assert first[0] == f"## [{fsam.__version__}] - {date}"


def test_the_citation_file_names_the_same_paper():
    yaml = pytest.importorskip("yaml", reason="needs focal_sam_jax[experiments]")
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    entry = dict(re.findall(r"^  (\w+) += \{(.*)\},?$", README, re.MULTILINE))
    authors = [f"{a['family-names']}, {a['given-names']}" for a in paper["authors"]]
    assert " and ".join(authors) == entry["author"]
    assert paper["title"] == entry["title"].replace("{SAM}", "SAM")
    assert paper["collection-title"] == entry["booktitle"]
    assert str(paper["year"]) == entry["year"]
    assert paper["url"] in README
