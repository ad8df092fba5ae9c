"""The table of a comparison: as numbers, in the terminal, and in Markdown."""

from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from experiments.config import Config
from experiments.metrics import SCORES, SHOTS
from experiments.seeds import Outcome
from experiments.statistics import Summary, paired_difference, summarise

_HEADER = ("", "overall", *SHOTS, "time", "epochs")


def comparison_rows(
    outcomes: dict[str, list[Outcome]], configs: dict[str, Config]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row a method, and a row a pair of methods, as JSON.

    A method's row has its configuration, the median time of a step, and for each
    accuracy the mean, the standard deviation and the values of the seeds; ``None`` for
    a group that has no classes. A pair's row has the mean of the differences seed by
    seed and its standard error: every method less SGD, Focal-SAM less SAM.
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
            "step_seconds": float(np.median([o.step_seconds for o in of_seeds])),
        }
        for score in SCORES:
            values = _values(of_seeds, score)
            row[score] = values and {**_json(summarise(values)), "values": values}
        rows.append(row)
    pairs = [(name, "sgd") for name in outcomes if name != "sgd"]
    pairs.append(("focal_sam", "sam"))
    differences = []
    for name, other in pairs:
        if {name, other} <= outcomes.keys():
            difference: dict[str, Any] = {
                "name": f"{name.removeprefix('sgd, ')} − {other}"
            }
            for score in SCORES:
                values = _values(outcomes[name], score)
                others = _values(outcomes[other], score)
                difference[score] = (
                    values and others and _json(paired_difference(values, others))
                )
            differences.append(difference)
    return rows, differences


def markdown_table(
    rows: list[dict[str, Any]], differences: list[dict[str, Any]]
) -> str:
    """The table as Markdown."""
    lines = [_HEADER, ("---", *["---:"] * (len(_HEADER) - 1))]
    lines += [*_method_cells(rows), *_difference_cells(differences)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def rich_table(
    rows: list[dict[str, Any]], differences: list[dict[str, Any]], title: str
) -> Table:
    """The table for the terminal."""
    table = Table(
        title=title,
        caption="Test accuracy in %: mean ± standard deviation over seeds; below, "
        "differences paired by seed ± standard error. Time of a step relative to SGD.",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for position, header in enumerate(_HEADER):
        justify = "right" if position else "left"
        table.add_column(header, justify=justify, no_wrap=True)
    for cells in _method_cells(rows):
        table.add_row(*map(_narrow, cells))
    table.add_section()
    for cells in _difference_cells(differences):
        table.add_row(*map(_narrow, cells))
    return table


def _narrow(cell: str) -> str:
    """With the spaces around the sign, the table would not fit 80 columns."""
    return cell.replace(" ± ", " ±")


def _method_cells(rows):
    sgd = [row["step_seconds"] for row in rows if row["name"] == "sgd"]
    for row in rows:
        seconds = row["step_seconds"]
        time = f"{seconds / sgd[0]:.2f}" if sgd else f"{1000 * seconds:.1f} ms"
        accuracies = [_percent(row[score], "{:.1f}") for score in SCORES]
        yield row["name"], *accuracies, time, str(row["epochs"])


def _difference_cells(differences):
    for row in differences:
        yield row["name"], *[_percent(row[s], "{:+.1f}") for s in SCORES], "", ""


def _percent(summary: dict[str, Any] | None, style: str) -> str:
    """``mean ± spread``; the spread is missing for a single seed."""
    if summary is None:
        return "–"
    text = style.format(100 * summary["mean"])
    if summary["spread"] is not None:
        text += f" ± {100 * summary['spread']:.1f}"
    return text


def _values(outcomes: list[Outcome], score: str) -> list[float] | None:
    """One value a seed; every seed has the same class counts, so the same groups."""
    values = [outcome.scores[score] for outcome in outcomes]
    return None if None in values else values


def _json(summary: Summary) -> dict[str, float | None]:
    """JSON has no NaN."""
    spread = None if np.isnan(summary.spread) else summary.spread
    return {"mean": summary.mean, "spread": spread}
