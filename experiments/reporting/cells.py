"""Cells and frames that all tables of results share."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from experiments.reporting.statistics import Summary


def as_json(summary: Summary) -> dict[str, float | None]:
    """Returns JSON, with ``None`` for NaN."""
    spread = None if np.isnan(summary.spread) else summary.spread
    return {"mean": summary.mean, "spread": spread}


def percent(summary: dict[str, Any] | None, style: str) -> str:
    """Formats ``mean ± spread`` in percent; a single seed has no spread."""
    if summary is None:
        return "–"
    text = style.format(100 * summary["mean"])
    if summary["spread"] is not None:
        text += f" ± {100 * summary['spread']:.1f}"
    return text


def narrow(cell: str) -> str:
    """Removes the space after ±, so that the table fits 80 columns."""
    return cell.replace(" ± ", " ±")


def markdown_lines(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Returns a Markdown table: the first column is text, the others are numbers."""
    rule = ("---", *["---:"] * (len(header) - 1))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, rule, *rows))


def empty_table(header: Sequence[str], *, title: str, caption: str) -> Table:
    """Returns a terminal table: the first column is text, the others are numbers."""
    table = Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for position, name in enumerate(header):
        justify = "right" if position else "left"
        table.add_column(name, justify=justify, no_wrap=position > 0)
    return table
