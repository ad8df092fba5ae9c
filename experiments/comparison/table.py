"""The table of a comparison: as numbers, in the terminal, and in Markdown."""

from typing import Any

import numpy as np
from rich.table import Table

from experiments.comparison.seeds import Outcome
from experiments.config import Config
from experiments.metrics import SCORES, SHOTS
from experiments.reporting.cells import (
    as_json,
    empty_table,
    markdown_lines,
    narrow,
    percent,
)
from experiments.reporting.statistics import paired_difference, summarise

_HEADER = ("", "overall", *SHOTS, "time", "epochs")


def comparison_rows(
    outcomes: dict[str, list[Outcome]], configs: dict[str, Config]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row a method, and a row a pair of methods, as JSON.

    A method's row has its configuration, the median time of a step, and for each
    accuracy the mean, the standard deviation and the values of the seeds; ``None`` for
    a group that has no classes. A pair's row has the mean of the differences seed by
    seed and its standard error: every method less SGD, Focal-SAM less SAM, and what
    approximates Focal-SAM less Focal-SAM.
    """
    rows = []
    for name, of_seeds in outcomes.items():
        config = configs[name]
        row: dict[str, Any] = {
            "name": name,
            "epochs": config.epochs,
            "learning_rate": config.learning_rate,
            "weight_decay": config.weight_decay,
            "rho": config.rho,
            "gamma": config.gamma,
            "lam": config.lam,
            "tail_threshold": config.tail_threshold,
            "alpha": config.alpha,
            "approximation": config.approximation,
            "every": config.every,
            "step_seconds": float(np.median([o.step_seconds for o in of_seeds])),
        }
        for score in SCORES:
            values = _values(of_seeds, score)
            row[score] = values and {**as_json(summarise(values)), "values": values}
        rows.append(row)
    pairs = [
        (name, "sgd" if configs[name].approximation == "none" else "focal_sam")
        for name in outcomes
        if name != "sgd"
    ]
    pairs.append(("focal_sam", "sam"))
    differences = []
    for name, other in pairs:
        if {name, other} <= outcomes.keys():
            difference: dict[str, Any] = {
                "name": f"{name.removeprefix(f'{other}, ')} − {other}"
            }
            for score in SCORES:
                values = _values(outcomes[name], score)
                others = _values(outcomes[other], score)
                difference[score] = (
                    values and others and as_json(paired_difference(values, others))
                )
            differences.append(difference)
    return rows, differences


def markdown_table(
    rows: list[dict[str, Any]], differences: list[dict[str, Any]]
) -> str:
    """The table as Markdown."""
    return markdown_lines(
        _HEADER, [*_method_cells(rows), *_difference_cells(differences)]
    )


def rich_table(
    rows: list[dict[str, Any]], differences: list[dict[str, Any]], title: str
) -> Table:
    """The table for the terminal."""
    table = empty_table(
        _HEADER,
        title=title,
        caption="Test accuracy in %: mean ± standard deviation over seeds; below, "
        "differences paired by seed ± standard error. Time of a step relative to SGD.",
    )
    for cells in _method_cells(rows):
        table.add_row(*map(narrow, cells))
    table.add_section()
    for cells in _difference_cells(differences):
        table.add_row(*map(narrow, cells))
    return table


def _method_cells(rows):
    sgd = [row["step_seconds"] for row in rows if row["name"] == "sgd"]
    for row in rows:
        seconds = row["step_seconds"]
        time = f"{seconds / sgd[0]:.2f}" if sgd else f"{1000 * seconds:.1f} ms"
        accuracies = [percent(row[score], "{:.1f}") for score in SCORES]
        yield row["name"], *accuracies, time, str(row["epochs"])


def _difference_cells(differences):
    for row in differences:
        yield row["name"], *[percent(row[s], "{:+.1f}") for s in SCORES], "", ""


def _values(outcomes: list[Outcome], score: str) -> list[float] | None:
    """One value a seed; every seed has the same class counts, so the same groups."""
    values = [outcome.scores[score] for outcome in outcomes]
    return None if None in values else values
