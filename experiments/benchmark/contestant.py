"""What is timed against what, and how: in turns, so that all share what disturbs."""

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Contestant(NamedTuple):
    """Something that is run again and again.

    Attributes:
      name: what it is, the first fields of its row.
      run: makes that many turns and waits until the last has ended.
      costs: what is known of it without a clock, further fields of its row.
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
    clock: Callable[[], float],
    progress: Callable[[str], None],
) -> Timings:
    """Times all of them, one after the other, in every round.

    Every second round runs backwards, so that nobody always follows the same one.

    Args:
      contestants: each makes a turn first that is not counted.
      repeats: rounds.
      seconds: that a sample should take at least; short turns are repeated in it.
      clock: tells the time in seconds.
      progress: called with the name of what runs next.

    Returns:
      For every contestant the seconds of a turn in every round.
    """
    turns = []
    for contestant in contestants:
        progress(title(contestant))
        contestant.run(1)
        turns.append(_turns(contestant, seconds, clock))
    timings: Timings = [[] for _ in contestants]
    for number in range(repeats):
        order = list(range(len(contestants)))
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
    """Its name as words."""
    return " ".join(str(value) for value in contestant.name.values())


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Median, least and most, as fields of a row."""
    return {
        "ms_median": 1e3 * statistics.median(seconds),
        "ms_min": 1e3 * min(seconds),
        "ms_max": 1e3 * max(seconds),
    }
