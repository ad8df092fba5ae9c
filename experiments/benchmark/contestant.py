"""Timing of contestants in turns, so that disturbances affect all of them."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Contestant(NamedTuple):
    """A computation to be timed.

    Attributes:
      name: fields that identify it, the first of its row.
      run: function that runs a given number of turns and waits for the last one.
      costs: costs that are known without timing, further fields of its row.
    """

    name: dict[str, Any]
    run: Callable[[int], None]
    costs: dict[str, Any]


Timings = list[list[float]]


def interleave(
    contestants: Sequence[Contestant],
    *,
    repeats: int,
    seconds: float,
    until: float,
    clock: Callable[[], float],
    progress: Callable[[str], None],
) -> Timings:
    """Times all contestants, one after the other, in every round.

    Every second round runs backwards, so that none always follows the same one.

    Args:
      contestants: contestants to time; each first runs a turn that is not counted.
      repeats: largest number of rounds.
      seconds: minimum time of a sample; short turns are repeated in it.
      until: time after which no further round begins; the first one always does.
      clock: function that returns the time in seconds.
      progress: called with the name of what runs next.

    Returns:
      For every contestant the seconds per turn in every round.
    """
    turns = []
    for contestant in contestants:
        progress(title(contestant))
        contestant.run(1)
        turns.append(_turns(contestant, seconds, clock))
    timings: Timings = [[] for _ in contestants]
    for number in range(repeats):
        if number and clock() > until:
            break
        order = range(len(contestants))
        for i in order[:: -1 if number % 2 else 1]:
            progress(f"{title(contestants[i])}, {number + 1} of {repeats}")
            began = clock()
            contestants[i].run(turns[i])
            timings[i].append((clock() - began) / turns[i])
    return timings


def _turns(contestant, seconds, clock):
    if not seconds:
        return 1
    began = clock()
    contestant.run(1)
    return max(1, math.ceil(seconds / max(clock() - began, 1e-9)))


def title(contestant: Contestant) -> str:
    """Returns the name of a contestant as text."""
    return " ".join(str(value) for value in contestant.name.values())


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Returns median, minimum and maximum as fields of a row."""
    return {
        "ms_median": 1e3 * statistics.median(seconds),
        "ms_min": 1e3 * min(seconds),
        "ms_max": 1e3 * max(seconds),
    }
