"""Groups of runs as numbers: means over seeds, and differences paired by seed."""

from typing import Any

import numpy as np

from experiments.metrics import SCORES
from experiments.reporting.cells import as_json
from experiments.reporting.groups import Group, differing_fields
from experiments.reporting.runs import FinishedRun, step_seconds
from experiments.reporting.statistics import paired_difference, summarise

# What is reported of every state that was tested.
NUMBERS = (*SCORES, "ece")
_BASELINE = "sgd"
# What methods differ in by nature, or by tuning.
_OF_METHODS = {
    *("method", "learning_rate", "weight_decay", "rho", "rho_schedule", "rho_start"),
    *("rho_milestones", "rho_values", "gamma", "lam", "tail_threshold", "alpha"),
    *("approximation", "every"),
}


def group_rows(groups: list[Group]) -> list[dict[str, Any]]:
    """A row a group, as JSON.

    It has the configuration, the folders and seeds of the runs, the median time of a
    step, and under ``last`` and ``best`` the numbers of the last epoch and of the best
    on the validation split, on the test set: of each the mean, the sample standard
    deviation and the values of the seeds, or ``None`` where a run has none. ``best`` is
    ``None`` without a validation split, and else has the ``epochs`` that were chosen.
    """
    return [
        {
            "name": group.name,
            "config": group.config,
            "runs": [str(run.folder) for run in group.runs],
            "seeds": [list(run.seeds) for run in group.runs],
            "step_seconds": float(np.median([step_seconds(r) for r in group.runs])),
            "last": _summaries(group, "last"),
            "best": _best(group),
        }
        for group in groups
    ]


def difference_rows(groups: list[Group]) -> list[dict[str, Any]]:
    """A row for every group that has a baseline, as JSON: the group less the baseline.

    The baseline is plain SGD with the same settings, but for those that belong to a
    method or are tuned for it: the learning rate, weight decay, and the parameters of
    the methods themselves. Of several it is the one most alike. A row has the seeds
    that both have run with, and for each number of the last epoch the mean of the
    differences, seed by seed, its standard error and the differences.
    """
    rows = []
    for group in groups:
        baseline = _baseline(group, groups)
        if baseline is None:
            continue
        own, other = ({r.seeds: r for r in g.runs} for g in (group, baseline))
        shared = [seeds for seeds in own if seeds in other]
        if not shared:
            continue
        row: dict[str, Any] = {
            "name": f"{group.name} − {baseline.name}",
            "seeds": [list(seeds) for seeds in shared],
        }
        for number in NUMBERS:
            values = _values([own[seeds] for seeds in shared], "last", number)
            others = _values([other[seeds] for seeds in shared], "last", number)
            row[number] = values and others and _difference(values, others)
        rows.append(row)
    return rows


def _best(group: Group) -> dict[str, Any] | None:
    if not all("best" in run.tests for run in group.runs):
        return None
    epochs = [run.tests["best"]["epoch"] for run in group.runs]
    return {"epochs": epochs, **_summaries(group, "best")}


def _summaries(group: Group, which: str) -> dict[str, Any]:
    summaries = {}
    for number in NUMBERS:
        values = _values(group.runs, which, number)
        summaries[number] = values and {**as_json(summarise(values)), "values": values}
    return summaries


def _difference(values: list[float], others: list[float]) -> dict[str, Any]:
    differences = [value - other for value, other in zip(values, others, strict=True)]
    return {**as_json(paired_difference(values, others)), "values": differences}


def _values(runs: list[FinishedRun], which: str, number: str) -> list[float] | None:
    """One value a run, or ``None`` if a run has none: a group without classes."""
    values = [run.tests[which][number] for run in runs]
    return None if None in values else values


def _baseline(group: Group, groups: list[Group]) -> Group | None:
    if group.config["method"] == _BASELINE:
        return None
    differing = {
        place: set(differing_fields([group.config, other.config]))
        for place, other in enumerate(groups)
        if other.config["method"] == _BASELINE
    }
    alike = [place for place, fields in differing.items() if fields <= _OF_METHODS]
    if not alike:
        return None
    return groups[min(alike, key=lambda place: len(differing[place]))]
