"""Means of measured runs over seeds, and sentences that compare flatness."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from experiments.reporting.statistics import as_json, paired_difference, summarise
from experiments.reporting.tables import ReportTable
from experiments.sharpness.measure import GROUPS

_BASELINE = "sgd"


class Measure(NamedTuple):
    """A measure of a group of classes, and its table's texts.

    Attributes:
      name: key in the result of :func:`experiments.sharpness.measure.measure`.
      title: title of the table; ``{rho}`` and the like stand for the radii.
      about: caption of the table.
    """

    name: str
    title: str
    about: str


MEASURES = (
    Measure(
        "ascent",
        "worst rise of the loss within {rho}",
        "By projected gradient ascent, in the units of the loss.",
    ),
    Measure(
        "sharpness",
        "rise of the loss at {rho} along its gradient",
        "After one step of this length along the gradient, in the units of the loss.",
    ),
    Measure(
        "adaptive",
        "rise of the loss in an adaptive ball of {adaptive_rho}",
        "After one step; the same for weights of another scale with the same outputs.",
    ),
    Measure(
        "average",
        "rise of the loss at random points at distance {average_rho}",
        "On average over random points.",
    ),
    Measure("eigenvalue", "largest eigenvalue of the Hessian", "By Lanczos."),
    Measure(
        "trace",
        "trace of the Hessian",
        "By Hutchinson's estimator, which may be negative with few samples.",
    ),
)
# The measures in the verdict.
_TELLING = ("ascent", "eigenvalue", "trace")


class Measured(NamedTuple):
    """The runs of one configuration, which differ in their seeds.

    Attributes:
      name: name of the group.
      method: method of its runs.
      seeds: training seed and subset seed of each run.
      numbers: measures of each run, in the same order.
    """

    name: str
    method: str
    seeds: list[tuple[int, int]]
    numbers: list[dict[str, Any]]

    def values(self, measure: str, shot: str) -> list[float] | None:
        """Returns one value per run; ``None`` if there are no such classes."""
        found = [run["groups"][shot].get(measure) for run in self.numbers]
        return None if None in found else found


def summaries(groups: list[Measured]) -> list[dict[str, Any]]:
    """Makes a JSON row per group: mean and spread of every measure, by shot."""
    rows = []
    for group in groups:
        row: dict[str, Any] = {"name": group.name, "seeds": group.seeds}
        for measure in MEASURES:
            row[measure.name] = {
                shot: values and as_json(summarise(values))
                for shot in GROUPS
                for values in [group.values(measure.name, shot)]
            }
        rows.append(row)
    return rows


def tables(rows: list[dict[str, Any]], radii: dict[str, float]) -> list[ReportTable]:
    """Makes a table for every measure, from rows of :func:`summaries`."""
    many = any(len(row["seeds"]) > 1 for row in rows)
    spread = " Mean ± standard deviation over seeds." if many else ""
    made = []
    for measure in MEASURES:
        shown = [
            shot for shot in GROUPS if any(row[measure.name][shot] for row in rows)
        ]
        cells = [
            (
                row["name"],
                str(len(row["seeds"])),
                *(_cell(row[measure.name][shot]) for shot in shown),
            )
            for row in rows
        ]
        title = measure.title.format(**radii)
        caption = measure.about + spread
        made.append(ReportTable(title, caption, ("", "seeds", *shown), cells))
    return made


def verdict(
    groups: list[Measured], shots: Sequence[str], radii: dict[str, float]
) -> list[str]:
    """Compares the methods' flatness for groups of classes, in sentences.

    For each measure in the verdict, they give the methods in order, flattest first,
    and those that differ from plain SGD, or from the first method if there is no SGD:
    the 95 % interval of the differences, paired by seed, excludes zero. The last
    sentences say how methods were compared, and which have too few seeds for it.
    """
    baseline = next((g for g in groups if g.method == _BASELINE), groups[0])
    others = [group for group in groups if group is not baseline]
    compared = [g for g in others if len(set(g.seeds) & set(baseline.seeds)) > 1]
    said = []
    for shot in shots:
        for measure in (m for m in MEASURES if m.name in _TELLING):
            known = {
                group.name: as_json(summarise(values))
                for group in groups
                if (values := group.values(measure.name, shot)) is not None
            }
            if known:
                order = sorted(known, key=lambda name: known[name]["mean"])
                listed = ", ".join(f"{name} {_cell(known[name])}" for name in order)
                title = measure.title.format(**radii)
                sentence = f"{shot}-shot classes, {title}: flattest first, {listed}."
                able = [group for group in compared if group.name in known]
                able = able if baseline.name in known else []
                words = _against(baseline, able, measure.name, shot)
                said.append(" ".join([sentence, *words]))
    if compared:
        said.append(
            f"Compared with {baseline.name} by 95 % t-intervals over paired seeds, not "
            "corrected for multiple comparisons."
        )
    if lone := [group.name for group in others if group not in compared]:
        said.append(
            f"Not compared with {baseline.name}, because fewer than two seeds are "
            f"shared: {', '.join(lone)}."
        )
    return said


def _against(
    baseline: Measured, groups: list[Measured], measure: str, shot: str
) -> Iterator[str]:
    """Yields which groups are flatter than the baseline, sharper, or neither."""
    words: dict[str, list[str]] = {}
    for group in groups:
        own, other = (
            dict(zip(g.seeds, g.values(measure, shot), strict=True))
            for g in (group, baseline)
        )
        shared = [seeds for seeds in own if seeds in other]
        mean, half = paired_difference(
            [own[seeds] for seeds in shared], [other[seeds] for seeds in shared]
        )
        word = "Flatter than" if mean < 0 else "Sharper than"
        word = "Not told apart from" if abs(mean) <= half else word
        words.setdefault(word, []).append(group.name)
    for word, names in words.items():
        yield f"{word} {baseline.name}: {', '.join(names)}."


def _cell(summary: dict[str, Any] | None) -> str:
    if summary is None:
        return "–"
    text = f"{summary['mean']:.3g}"
    if summary["spread"] is not None:
        text += f" ± {summary['spread']:.2g}"
    return text
