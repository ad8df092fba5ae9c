"""The tables of a report, for the terminal and as Markdown."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from experiments.config import has_effect
from experiments.metrics import SHOTS, shot_thresholds
from experiments.reporting.groups import differing_fields, show
from experiments.reporting.results import NUMBERS

_NUMBER_HEADER = ("overall", *SHOTS, "ECE")


class ReportTable(NamedTuple):
    """A table for both outputs.

    Attributes:
      title: text above it.
      caption: text below it.
      header: column headers.
      rows: cells.
    """

    title: str
    caption: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def report_tables(
    data: str, rows: list[dict[str, Any]], differences: list[dict[str, Any]]
) -> Iterator[ReportTable]:
    """Yields the tables of one data set: last epoch, best epoch and differences.

    Args:
      data: name of the data set.
      rows: rows of :func:`experiments.reporting.results.group_rows`.
      differences: rows of :func:`experiments.reporting.results.difference_rows`.
    """
    yield ReportTable(
        f"{data}: test set, last epoch",
        "In percent: mean, and ± standard deviation over several seeds; ECE: expected "
        f"calibration error; ms: milliseconds per step.{_shot_sizes(rows)}",
        ("", "seeds", *_NUMBER_HEADER, "ms"),
        [
            (
                row["name"],
                str(len(row["seeds"])),
                *_cells(row["last"], "{:.1f}"),
                f"{1000 * row['step_seconds']:.1f}",
            )
            for row in rows
        ],
    )
    chosen = [row for row in rows if row["best"]]
    if chosen:
        yield ReportTable(
            f"{data}: test set, epoch chosen on validation",
            "In percent, as above, at the epoch of each seed with the highest accuracy "
            "on the validation split; epoch: median of these epochs.",
            ("", "seeds", *_NUMBER_HEADER, "epoch"),
            [
                (
                    row["name"],
                    str(len(row["seeds"])),
                    *_cells(row["best"], "{:.1f}"),
                    f"{np.median(row['best']['epochs']):g}",
                )
                for row in chosen
            ],
        )
    if differences:
        yield ReportTable(
            f"{data}: differences, last epoch",
            "In percentage points: mean over the seeds that both rows have, and ± half "
            "the 95 % t-interval over several seeds.",
            ("", "seeds", *_NUMBER_HEADER),
            [
                (row["name"], str(len(row["seeds"])), *_cells(row, "{:+.1f}"))
                for row in differences
            ],
        )


def settings_table(data: str, rows: list[dict[str, Any]]) -> Iterator[ReportTable]:
    """Yields the settings in which groups of a data set differ, if there are any."""
    configs = [row["config"] for row in rows]
    fields = [
        field
        for field in differing_fields(configs)
        if field != "method" and any(has_effect(field, config) for config in configs)
    ]
    if fields:
        yield ReportTable(
            f"{data}: settings in which the rows differ",
            "–: has no effect in this row. All settings are in report.json.",
            ("", *fields),
            [
                (row["name"], *(_setting(row["config"], field) for field in fields))
                for row in rows
            ],
        )


def as_markdown(table: ReportTable) -> str:
    """Returns a heading, the table, and its caption."""
    lines = markdown_lines(table.header, table.rows)
    return f"### {table.title}\n\n{lines}\n{table.caption}\n"


def as_rich(table: ReportTable) -> Table:
    """Returns the table for the terminal: text, then columns of numbers."""
    shown = Table(
        title=escape(table.title),
        caption=escape(table.caption),
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for position, name in enumerate(table.header):
        justify = "right" if position else "left"
        shown.add_column(name, justify=justify, no_wrap=position > 0)
    for cells in table.rows:
        shown.add_row(*(escape(narrow(cell)) for cell in cells))
    return shown


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


def _setting(config: dict[str, Any], field: str) -> str:
    return show(config.get(field)) if has_effect(field, config) else "–"


def _cells(numbers: dict[str, Any], style: str) -> list[str]:
    return [percent(numbers[number], style) for number in NUMBERS]


def _shot_sizes(rows: list[dict[str, Any]]) -> str:
    """Returns the shot thresholds in words, if all rows share them."""
    sizes = {
        shot_thresholds(c["data"], c["imbalance_factor"], c["imbalance"], c["held_out"])
        for c in (row["config"] for row in rows)
    }
    if len(sizes) > 1:
        return ""
    few, many = sizes.pop()
    return (
        f" Classes with more than {many:g} training examples are many-shot, with fewer "
        f"than {few:g} few-shot."
    )
