"""Accuracies of groups, statistics over seeds, and the tables made of them."""

import math

import numpy as np
import pytest

pytest.importorskip("rich", reason="needs focal_sam_jax[experiments]")

from experiments.configs import get_config
from experiments.metrics import ShotThresholds, accuracies, shot_of_class
from experiments.seeds import Outcome
from experiments.statistics import paired_difference, summarise
from experiments.tables import comparison_rows, markdown_table

THRESHOLDS = ShotThresholds(few_below=10, many_above=40)


def test_groups_at_their_thresholds():
    counts = np.array([41, 40, 10, 9])
    groups = shot_of_class(counts, THRESHOLDS).tolist()
    assert groups == ["many", "medium", "medium", "few"]


def test_group_accuracy_weighs_classes_not_examples():
    labels = np.repeat([0, 1, 2], [10, 30, 10])
    found = accuracies(np.array([5, 30, 1]), labels, np.array([100, 50, 5]), THRESHOLDS)
    assert found["accuracy"] == 36 / 50
    assert found["accuracy_many"] == 0.75
    assert found["accuracy_medium"] is None
    assert found["accuracy_few"] == 0.1
    assert found["accuracy_per_class"] == [0.5, 1.0, 0.1]


def test_a_class_that_nobody_asked_for_has_no_accuracy():
    found = accuracies(
        np.array([2, 0]), np.array([0, 0]), np.array([50, 5]), THRESHOLDS
    )
    assert found["accuracy_per_class"] == [1.0, None]
    assert found["accuracy_few"] is None


def test_standard_deviation_and_standard_error():
    assert summarise([1.0, 2.0, 3.0]) == (2.0, 1.0)
    difference = paired_difference([3.0, 5.0], [1.0, 1.0])
    assert difference.mean == 3.0 and math.isclose(difference.spread, 1.0)


def test_a_single_seed_has_no_spread():
    assert math.isnan(summarise([1.0]).spread)
    assert math.isnan(paired_difference([2.0], [1.0]).spread)


def outcome(accuracy, seconds):
    scores = {"accuracy": accuracy, "accuracy_many": 1.0}
    return Outcome({**scores, "accuracy_medium": None, "accuracy_few": 0.5}, seconds)


def table(seeds):
    outcomes = {
        "sgd": [outcome(0.90, 0.002), outcome(0.92, 0.002)][:seeds],
        "sam": [outcome(0.91, 0.004), outcome(0.94, 0.004)][:seeds],
        "focal_sam": [outcome(0.93, 0.005), outcome(0.95, 0.005)][:seeds],
    }
    configs = {name: get_config("digits_lt", name) for name in outcomes}
    return comparison_rows(outcomes, configs)


def test_table_of_two_seeds():
    text = markdown_table(*table(2)).splitlines()
    assert text[2].startswith(
        "| sgd | 91.0 ± 1.4 | 100.0 ± 0.0 | – | 50.0 ± 0.0 | 1.00"
    )
    assert "| focal_sam | 94.0 ± 1.4 |" in text[4] and "| 2.50 |" in text[4]
    assert "| sam − sgd | +1.5 ± 0.5 | +0.0 ± 0.0 | – |" in text[5]
    assert "| focal_sam − sam | +1.5 ± 0.5 |" in text[7]


def test_table_of_one_seed():
    text = markdown_table(*table(1))
    assert "| sgd | 90.0 | 100.0 | – | 50.0 |" in text
    assert "nan" not in text
