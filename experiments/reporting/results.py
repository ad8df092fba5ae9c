"""Groups of runs as numbers: means over seeds, and differences paired by seed."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from experiments.metrics import SCORES
from experiments.reporting.groups import Group, differing_fields
from experiments.reporting.runs import FinishedRun, step_seconds
from experiments.reporting.statistics import as_json, paired_difference, summarise

# Numbers that are reported for every tested state.
NUMBERS = (*SCORES, "ece")
# Options that belong to methods or are tuned.
_OF_METHODS = {
    *("method", "learning_rate", "weight_decay", "rho", "rho_schedule", "rho_start"),
    *("rho_milestones", "rho_values", "gamma", "lam", "tail_threshold", "head_rho"),
    *("switch_epoch", "alpha", "perturbed", "approximation", "every"),
}
# Options that depend on the length of a run.
_OF_LENGTH = {"epochs", "drw_start", "milestones", "rho_milestones", "switch_epoch"}


def group_rows(groups: list[Group]) -> list[dict[str, Any]]:
    """Returns a row per group, as JSON.

    A row has the configuration, the median time of a step and, for each run, its
    folder, its seeds, the training examples of every class and the test accuracy of
    every class after the last epoch, both in label order. ``last`` and ``best`` have
    the test numbers of the last epoch and of the epoch that is best on the validation
    split: mean, sample standard deviation and values of the seeds, or ``None`` if a run
    lacks the number. ``best`` is ``None`` without a validation split; else it also has
    the chosen ``epochs``.
    """
    return [
        {
            "name": group.name,
            "config": group.config,
            "runs": [str(run.folder) for run in group.runs],
            "seeds": [list(run.seeds) for run in group.runs],
            "class_counts": [run.class_counts.tolist() for run in group.runs],
            "accuracy_per_class": [
                run.tests["last"]["accuracy_per_class"] for run in group.runs
            ],
            "step_seconds": float(
                np.median([step_seconds(r.rows) for r in group.runs])
            ),
            "last": _summaries(group, "last"),
            "best": _best(group),
        }
        for group in groups
    ]


def difference_rows(groups: list[Group]) -> list[dict[str, Any]]:
    """Returns a row per pair of compared groups, as JSON: one minus the other.

    Methods are compared with plain SGD, Focal-SAM also with SAM, an approximation with
    its method, and longer SGD with shorter. Both have the same settings, except those
    that belong to a method or are tuned for it: the learning rate, weight decay and the
    methods' own parameters. Of several candidates the most similar is used. A row has
    the seeds of both and, for each number of the last epoch, the mean of the
    differences, seed by seed, half its 95 % interval and the differences.
    """
    rows = []
    for group, other, own, others in pairs(groups):
        row: dict[str, Any] = {
            "name": f"{group.name} − {other.name}",
            "seeds": [list(run.seeds) for run in own],
        }
        for number in NUMBERS:
            first, second = (_values(runs, "last", number) for runs in (own, others))
            row[number] = first and second and _difference(first, second)
        rows.append(row)
    return rows


def pairs(
    groups: list[Group],
) -> Iterator[tuple[Group, Group, list[FinishedRun], list[FinishedRun]]]:
    """Yields two compared groups, and the runs of each with the seeds of both."""
    for group in groups:
        for other in _compared_with(group, groups):
            own, of_other = ({r.seeds: r for r in g.runs} for g in (group, other))
            shared = [seeds for seeds in own if seeds in of_other]
            if shared:
                yield (
                    group,
                    other,
                    [own[seeds] for seeds in shared],
                    [of_other[seeds] for seeds in shared],
                )


def verdict(differences: list[dict[str, Any]]) -> str:
    """Returns in words which pairs differ in overall accuracy."""
    words: dict[str, list[str]] = {}
    for row in differences:
        mean, spread = (row["accuracy"][key] for key in ("mean", "spread"))
        if spread is None:
            word = "One seed is not enough"
        elif abs(mean) <= spread:
            word = "Not told apart"
        else:
            word = "Helps" if mean > 0 else "Hurts"
        seeds = "1 seed" if len(row["seeds"]) == 1 else f"{len(row['seeds'])} seeds"
        words.setdefault(word, []).append(f"{row['name']} ({seeds})")
    if not words:
        return ""
    found = " ".join(f"{word}: {'; '.join(names)}." for word, names in words.items())
    number = len(differences)
    tests = "1 difference was" if number == 1 else f"{number} differences were"
    return (
        "Overall accuracy; a difference counts if its 95 % interval excludes zero. "
        f"{found} {tests} tested, without correction for multiple comparisons."
    )


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
    """Returns a value per run, or ``None`` if a run has none (no such classes)."""
    values = [run.tests[which][number] for run in runs]
    return None if None in values else values


def _compared_with(group: Group, groups: list[Group]) -> list[Group]:
    config = group.config
    method, approximation = config["method"], config["approximation"]
    if approximation != "none":
        exact = {"method": method, "approximation": "none"}
        wanted = [(exact, _OF_METHODS | _OF_LENGTH)]
    elif method == "sgd":
        wanted = [({"method": "sgd"}, _OF_LENGTH)]
    else:
        others = ["sgd", "sam"] if method == "focal_sam" else ["sgd"]
        wanted = [
            ({"method": name, "approximation": "none"}, _OF_METHODS) for name in others
        ]
    found = (_most_alike(group, groups, *each) for each in wanted)
    return [other for other in found if other is not None]


def _most_alike(
    group: Group, groups: list[Group], wanted: dict[str, str], free: set[str]
) -> Group | None:
    """Returns the closest group with the wanted values; only ``free`` may differ.

    Plain SGD is only compared with shorter plain SGD.
    """
    differing = {}
    for place, other in enumerate(groups):
        fields = set(differing_fields([group.config, other.config]))
        alike = all(other.config[name] == value for name, value in wanted.items())
        if group.config["method"] == "sgd":
            alike = alike and other.config["epochs"] < group.config["epochs"]
        if alike and fields <= free:
            differing[place] = len(fields)
    return groups[min(differing, key=differing.__getitem__)] if differing else None
