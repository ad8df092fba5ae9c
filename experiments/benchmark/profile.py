"""Where the time of a training step goes: ``python -m experiments.benchmark.profile``.

The step is the compiled one of the benchmark. After two steps that are not recorded,
some run in sequence under JAX's profiler.

* Time of a step: wall-clock time of the recorded steps, divided by their number. The
  profiler makes a step slower, most of all on CPU.
* Time of an operation: time in which it runs, summed over its calls. If several
  operations run at the same moment, on threads or streams, each gets an equal part.
* Gaps: time between the first and the last operation in which none runs.
* Start and end: time before the first operation and after the last.

The times of the operations, the gaps, start and end add up to the time of a step.
"""

import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import tyro
from rich.console import Console
from rich.markdown import Markdown

from experiments.benchmark.hlo import KINDS, Operation, kernel_kind, operations
from experiments.benchmark.jax_steps import build, compile_step, repeatedly
from experiments.benchmark.spans import Span, own_times, read_spans
from experiments.benchmark.workload import (
    METHODS,
    Method,
    Network,
    Precision,
    Workload,
)
from experiments.cli import compute_right_sums
from experiments.config import about, at_least, check_bounds
from experiments.ending import exit_with
from experiments.errors import UserError
from experiments.records.folders import check_new_file
from experiments.reporting.tables import markdown_lines
from experiments.terminal import make_console

_WARM_STEPS = 2
_LONGEST_NAME = 60


@dataclass(frozen=True)
class Job:
    """Lists the operations that take most of a training step's time, and the gaps.

    On GPU some kernels run in CUDA graphs and may not be traced to an operation.
    XLA_FLAGS=--xla_gpu_enable_command_buffer= runs the step without such graphs.
    """

    model: Annotated[Network, about("network; vit_b16: all weights are trained")] = (
        "resnet32"
    )
    batch_size: Annotated[int, about("examples per step"), at_least(1)] = 64
    precision: Annotated[
        Precision, about("dtype of the computation; weights are float32")
    ] = "float32"
    methods: Annotated[
        tuple[Method, ...], about("methods to profile, one after the other")
    ] = METHODS
    steps: Annotated[
        int, about("number of steps to record for each method"), at_least(1)
    ] = 5
    rows: Annotated[int, about("number of operations to list"), at_least(1)] = 15
    out: Annotated[
        Path | None, about("new Markdown file for the tables; none: only printed")
    ] = None


def run(job: Job, console: Console) -> str:
    """Profiles every method; prints, writes and returns the tables, as Markdown."""
    check_bounds(job)
    if not job.methods:
        raise UserError("--methods needs at least one value.")
    if job.out:
        check_new_file(job.out)
    workload = Workload(job.model, job.batch_size, job.precision)
    title = f"{job.model}, batch {job.batch_size}, {job.precision}"
    text = f"# Profile of {title} on {jax.devices()[0].device_kind}\n"
    for method in dict.fromkeys(job.methods):
        with console.status(f"profiling {method}"):
            text += f"\n## {method}\n\n{_profile(workload, method, job)}"
        if job.out:
            job.out.write_text(text, encoding="utf-8")
    console.print(Markdown(text))
    return text


def _profile(workload: Workload, method: Method, job: Job) -> str:
    """Returns the tables of a method."""
    step, state, arguments = build(workload, method)
    compiled, _ = compile_step(step, state, *arguments)
    run_steps = repeatedly(compiled, state, arguments)
    run_steps(_WARM_STEPS)
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            began = time.perf_counter()
            run_steps(job.steps)
            wall = 1e9 * (time.perf_counter() - began)
        (trace,) = Path(folder).rglob("*.xplane.pb")
        program = operations(compiled.as_text() or "")
        spans = read_spans(trace, program, jax.default_backend())
    if not spans:
        raise UserError(
            "JAX's profiler recorded no operation of the device: on a GPU, check that "
            "the driver allows this user to profile."
        )
    return tables(spans, program, wall / job.steps, job.steps, job.rows)


def tables(
    spans: Sequence[Span],
    program: dict[str, Operation],
    step: float,
    steps: int,
    rows: int,
) -> str:
    """Returns the longest operations, and the time by kind, as Markdown.

    Args:
      spans: calls of operations in all steps.
      program: operations of the program, by name.
      step: wall-clock time of a step in nanoseconds.
      steps: number of steps.
      rows: number of operations that are listed.
    """
    own, gaps = own_times(spans, {name for name in program if program[name].outer})
    calls = Counter(span.name for span in spans)
    known = {name: program.get(name, Operation(kernel_kind(name))) for name in calls}
    count: Counter[str] = Counter()
    total: dict[str, float] = defaultdict(float)
    for name, operation in known.items():
        count[operation.kind] += calls[name]
        total[operation.kind] += own.get(name, 0)
    count["gaps"], total["gaps"] = len(gaps), sum(gaps)
    total["start and end"] = step * steps - sum(own.values()) - sum(gaps)

    def cells(number: int, nanoseconds: float) -> tuple[str, str, str]:
        each = nanoseconds / steps
        return f"{number / steps:.4g}", f"{1e-6 * each:.3f}", f"{each / step:.1%}"

    of_operations = [
        (
            f"`{name[:_LONGEST_NAME]}`",
            known[name].kind,
            f"`{known[name].contains}`",
            *cells(calls[name], own[name]),
        )
        for name in sorted(own, key=lambda name: -own[name])[:rows]
    ]
    of_kinds = [
        (kind, *cells(count[kind], total[kind]))
        for kind in (*KINDS, "gaps", "start and end")
    ]
    header = ("operation", "kind", "contains", "calls", "ms", "share")
    return (
        f"A step takes {1e-6 * step:.2f} ms. Per step:\n\n"
        f"{markdown_lines(header, of_operations)}\n"
        f"{markdown_lines(('kind', 'number', 'ms', 'share'), of_kinds)}"
    )


def main() -> None:
    """Runs the command."""
    prog = "python -m experiments.benchmark.profile"
    job = tyro.cli(Job, prog=prog, args=sys.argv[1:])
    compute_right_sums()
    # A cached program may have the names of another one.
    jax.config.update("jax_enable_compilation_cache", False)
    run(job, make_console(width=None if sys.stdout.isatty() else 160))


if __name__ == "__main__":
    exit_with(main)
