"""The table of a comparison: as numbers, in the terminal, and in Markdown."""

import math
from typing import Any

from rich.table import Table

from experiments.config import Config
from experiments.metrics import SHOTS
from experiments.seeds import Outcome
from experiments.statistics import Summary, paired_difference, summarise

_SCORES = ("accuracy", *(f"accuracy_{shot}" for shot in SHOTS))
_HEADERS = ("overall", *SHOTS)


def comparison_rows(
    outcomes: dict[str, list[Outcome]], configs: dict[str, Config]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row a method, and a row a pair of methods, as JSON.

    A method's row has its options, and for each accuracy the mean, the standard
    deviation and the values of the seeds. A pair's row has the mean of the difference
    seed by seed and its standard error: every method less SGD, Focal-SAM less SAM.
    """
    rows = [
        {
            "name": name,
            "epochs": configs[name].epochs,
            "options": _options(configs[name]),
            "step_seconds": _median([o.step_seconds for o in outcomes[name]]),
            **{score: _spread(_values(outcomes[name], score)) for score in _SCORES},
        }
        for name in outcomes
    ]
    pairs = [(name, "sgd") for name in outcomes if name != "sgd"]
    pairs.append(("focal_sam", "sam"))
    differences = [
        {
            "name": f"{name} - {other}",
            **{
                score: paired_difference(
                    _values(outcomes[name], score), _values(outcomes[other], score)
                )._asdict()
                for score in _SCORES
            },
        }
        for name, other in pairs
        if {name, other} <= outcomes.keys()
    ]
    return rows, differences
