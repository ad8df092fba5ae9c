"""Tests of the results in docs/results: the pages show them, and they can be redone."""

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("rich", reason="needs focal_sam_jax[experiments]")

from scipy import stats

from experiments.reporting.results import NUMBERS
from experiments.reporting.tables import markdown_lines, report_tables

DOCS = Path(__file__).parents[1] / "docs"
REPORTS = sorted(DOCS.glob("results/*/report.json"))
recorded = pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.parent.name)


def reports(path):
    return json.loads(path.read_text())["data"].items()


def test_results_are_recorded():
    assert REPORTS


@recorded
def test_the_page_has_the_tables_of_a_report(path):
    page = (DOCS / "results.md").read_text()
    for data, report in reports(path):
        for table in report_tables(data, report["groups"], report["differences"]):
            assert markdown_lines(table.header, table.rows) in page


@recorded
def test_differences_follow_from_the_values_of_the_runs(path):
    for _, report in reports(path):
        groups = {group["name"]: group for group in report["groups"]}
        for row in report["differences"]:
            group, other = (groups[part] for part in row["name"].split(" − "))
            assert row["seeds"] == group["seeds"] == other["seeds"]
            for number in NUMBERS:
                own, others = (g["last"][number]["values"] for g in (group, other))
                redone = stats.ttest_rel(own, others).confidence_interval(0.95)
                mean, half = row[number]["mean"], row[number]["spread"]
                assert math.isclose(redone.low, mean - half, abs_tol=1e-12)
                assert math.isclose(redone.high, mean + half, abs_tol=1e-12)
