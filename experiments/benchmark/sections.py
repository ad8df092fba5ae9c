"""The sections of the benchmark: the contestants of each, and the resulting rows."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from experiments.benchmark import growth, many_seeds
from experiments.benchmark.contestant import Contestant, interleave, milliseconds
from experiments.benchmark.workload import Method, Workload

Rows = list[dict[str, Any]]


class Timer(NamedTuple):
    """How contestants are timed, and for how long.

    Attributes:
      left_out: what was left out because the time was up. The other fields are the
        arguments of :func:`interleave`.
    """

    repeats: int
    seconds: float
    until: float
    clock: Callable[[], float]
    progress: Callable[[str], None]
    left_out: list[str]

    def skips(self, what: str) -> bool:
        """Says whether the time is up, and then notes ``what`` as left out."""
        over = self.clock() > self.until
        if over:
            self.left_out.append(what)
        return over

    def rows(self, contestants: Sequence[Contestant]) -> Rows:
        """Times contestants; returns a row for each, in order."""
        options = self._asdict()
        del options["left_out"]
        timings = interleave(contestants, **options)
        return [
            {**contestant.name, **milliseconds(seconds), **contestant.costs}
            for contestant, seconds in zip(contestants, timings, strict=True)
        ]


def step_rows(contestants: Sequence[Contestant], timer: Timer) -> Rows:
    """Times steps in turns."""
    rows = timer.rows(contestants)
    for row in rows:
        row["examples_per_s"] = 1e3 * row["batch_size"] / row["ms_median"]
    return with_ratios(rows)


def with_ratios(rows: Rows) -> Rows:
    """Adds the ratio of each time to those of SGD and SAM, if they are there.

    All else is equal: only the method differs.
    """
    same = ("framework", "model", "batch_size", "dtype", "over", "value")

    def key(row, method):
        return (method, *(row.get(name) for name in same))

    times = {key(row, row["method"]): row["ms_median"] for row in rows}
    for row in rows:
        for method in ("sgd", "sam"):
            base = times.get(key(row, method))
            row[f"ratio_{method}"] = row["ms_median"] / base if base else None
    return rows


def seed_rows(workload: Workload, methods: Sequence[Method], timer: Timer) -> Rows:
    """Times steps of several seeds, with the ratio to one seed."""
    rows: Rows = []
    for method in methods:
        if timer.skips(f"seeds of {method}"):
            continue
        contestants = []
        for number in many_seeds.SEEDS:
            timer.progress(f"compiling {method} for {number} seeds")
            contestants.append(many_seeds.seeds_step(workload, method, number))
        of_method = timer.rows(contestants)
        for row in of_method:
            row["ratio_one_seed"] = row["ms_median"] / of_method[0]["ms_median"]
        rows += of_method
    return rows


def growth_rows(workload: Workload, methods: Sequence[Method], timer: Timer) -> Rows:
    """Times steps while one size grows; at each point, methods take turns."""
    rows: Rows = []
    for point in growth.points(workload):
        if timer.skips(f"growth over {point.over}"):
            continue
        contestants = []
        for method in filter(lambda m, point=point: growth.can_run(point, m), methods):
            timer.progress(f"compiling {method} at {point.over}")
            contestants.append(growth.growth_step(point, method))
        rows += with_ratios(timer.rows(contestants))
    return rows


def epoch_rows(contestants: Sequence[Contestant], timer: Timer) -> Rows:
    """Times epochs; one is long enough without repetition in a sample."""
    rows = timer.rows(contestants)
    for row in rows:
        row["s_median"] = row["ms_median"] / 1e3
    return with_ratios(rows)
