"""Tests of the results in docs/results: the pages show them, and they can be redone."""

import json
import math
from pathlib import Path

import pytest

pytest.importorskip("rich", reason="needs focal_sam_jax[experiments]")

from scipy import stats

from experiments.reporting.cells import markdown_lines
from experiments.reporting.results import NUMBERS
from experiments.reporting.tables import report_tables

DOCS = Path(__file__).parents[1] / "docs"
RECORDS = {
    path.stem: json.loads(path.read_text())["data"]
    for path in sorted(DOCS.glob("results/*.json"))
}


@pytest.mark.parametrize("name", RECORDS)
def test_the_page_has_the_tables_of_a_report(name):
    page = (DOCS / "results.md").read_text()
    for data, report in RECORDS[name].items():
        for table in report_tables(data, report["groups"], report["differences"]):
            assert markdown_lines(table.header, table.rows) in page


@pytest.mark.parametrize("name", RECORDS)
def test_differences_follow_from_the_values_of_the_runs(name):
    for report in RECORDS[name].values():
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
