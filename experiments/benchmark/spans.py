"""Calls of operations in a trace of JAX's profiler, and the time that each takes."""

import re
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

from jax.profiler import ProfileData

from experiments.benchmark.hlo import Operation

# How the names of planes and lines begin in which a trace has the operations.
_PLACES = {
    "cpu": ("/host:CPU", ""),
    "gpu": ("/device:GPU", "Stream"),
    "tpu": ("/device:TPU", "XLA Ops"),
}


class Span(NamedTuple):
    """A call of an operation, from ``start`` to ``end`` in nanoseconds."""

    name: str
    start: float
    end: float


def read_spans(trace: Path, program: dict[str, Operation], platform: str) -> list[Span]:
    """Returns the calls of operations in a trace, named after the instructions.

    A GPU kernel keeps its own name if neither the trace nor that name tells the
    instruction, which happens in CUDA graphs.

    Args:
      trace: the profiler's ``.xplane.pb`` file.
      program: operations of the program, by name.
      platform: ``"cpu"``, ``"gpu"`` or ``"tpu"``.
    """
    kernels = {re.sub(r"\W", "_", name): name for name in program}
    of_plane, of_line = _PLACES[platform]
    planes = ProfileData.from_file(str(trace)).planes
    lines = (p.lines for p in planes if p.name.startswith(of_plane))
    calls, ends = defaultdict(list), defaultdict(list)
    for line in chain.from_iterable(lines):
        for event in line.events if line.name.startswith(of_line) else ():
            instruction = dict(event.stats).get("hlo_op")
            # On TPU an event has the text of an instruction as its name.
            name = event.name.partition(" = ")[0].removeprefix("%")
            if platform == "cpu" and instruction is None:
                ends[name.removeprefix("end: ")].append(event.end_ns)
                continue
            for known in (instruction, name, kernels.get(name)):
                if known in program and not program[known].outer:
                    name = known
                    break
            calls[name].append(Span(name, event.start_ns, event.end_ns))
    return [span for name in calls for span in whole_calls(calls[name], ends[name])]


def whole_calls(calls: list[Span], ends: list[float]) -> list[Span]:
    """Extends every call of one operation to the last end before the next call.

    On CPU an operation may continue on other threads, which record its end. Until then
    it also waits for these threads.
    """
    calls = sorted(calls, key=lambda call: call.start)
    starts = [call.start for call in calls]
    for end in ends:
        last = bisect_right(starts, end) - 1
        if last >= 0:
            calls[last] = calls[last]._replace(end=max(end, calls[last].end))
    return calls


def own_times(
    spans: Sequence[Span], outer: Collection[str] = ()
) -> tuple[dict[str, float], list[float]]:
    """Returns the time of every operation, and the lengths of the gaps.

    If several operations run at the same moment, each gets an equal part of the time.
    So all times and gaps add up to the time from the first start to the last end.

    Args:
      spans: calls of operations, which may overlap.
      outer: operations that contain others, such as loops. They only count at moments
        when no other operation runs.
    """
    edges = [(start, 1, name) for name, start, end in spans if start < end]
    edges += [(end, -1, name) for name, start, end in spans if start < end]
    own: dict[str, float] = defaultdict(float)
    gaps: list[float] = []
    running: Counter[str] = Counter()
    for (now, change, name), (then, *_) in pairwise(sorted(edges)):
        running[name] += change
        names = list(running.elements())
        counted = [name for name in names if name not in outer] or names
        for name in counted:
            own[name] += (then - now) / len(counted)
        if not counted and now < then:
            gaps.append(then - now)
    return dict(own), gaps
