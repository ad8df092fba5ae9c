"""Times the methods in JAX and PyTorch: ``python -m experiments.benchmark``."""

import datetime
import importlib.metadata
import importlib.util
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

# Set before JAX starts: JAX would allocate most of a GPU's memory, and PyTorch needs
# some. The others silence PyTorch's profiler, which counts memory.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
os.environ.setdefault("KINETO_LOG_LEVEL", "99")
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import jax
import tyro
from rich.console import Console
from rich.markdown import Markdown

from experiments.benchmark import epoch, growth, sections
from experiments.benchmark.contestant import Contestant
from experiments.benchmark.jax_steps import jax_step
from experiments.benchmark.pictures import benchmark_figure
from experiments.benchmark.tables import markdown
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
from experiments.records.folders import check_new_file, new_run_dir
from experiments.records.manifest import describe_machine, write_json
from experiments.terminal import make_console

Framework = Literal["jax", "torch", "torch_compile"]
Section = Literal["steps", "epoch", "seeds", "growth"]
_HOST_DEVICES = 8
# Few rounds, because an epoch takes as long as hundreds of steps.
_EPOCHS = 3


@dataclass(frozen=True)
class Job:
    """Times every method in JAX and PyTorch, in turns on one device.

    Networks, batch sizes and precisions are all combined. Writes the results as
    JSON and Markdown, and a figure.
    """

    model: Annotated[
        tuple[Network, ...], about("networks; vit_b16: all weights are trained")
    ] = ("resnet32",)
    batch_size: Annotated[tuple[int, ...], about("examples per step")] = (64,)
    precision: Annotated[
        tuple[Precision, ...], about("dtype of the computation; weights are float32")
    ] = ("float32",)
    methods: Annotated[
        tuple[Method, ...],
        about(
            "cc_sam_head: as in the published code; focal_sam_unshared: for vision "
            "transformers, with two backward passes at the parameters instead of one"
        ),
    ] = METHODS
    frameworks: Annotated[
        tuple[Framework, ...], about("torch_compile: torch.compile, with channels last")
    ] = ("jax", "torch")
    torch_repo: Annotated[
        Path | None,
        about("clone of the authors' repository, to time its step too"),
    ] = None
    sections: Annotated[
        tuple[Section, ...],
        tyro.conf.arg(
            aliases=("--parts",),
            help="steps: all combinations of the above; epoch (of CIFAR-100-LT), seeds "
            "(several at once) and growth: the first network, batch size and precision",
        ),
    ] = ("steps",)
    repeats: Annotated[
        int,
        about("number of rounds, with one turn for each step in every round"),
        at_least(1),
    ] = 10
    seconds: Annotated[float, about("minimum duration of a turn"), at_least(0)] = 0.2
    minutes: Annotated[
        float | None,
        about("time for all; what does not fit is left out and named; none: no limit"),
        at_least(0),
    ] = None
    data_dir: Annotated[
        Path, about("folder of data sets; without CIFAR-100, pixels are random")
    ] = Path("data")
    workers: Annotated[
        int, about("worker processes of PyTorch that read images"), at_least(0)
    ] = 2
    out: Annotated[
        Path | None, about("JSON file for the results; none: a new one in runs/")
    ] = None


def run(job: Job, console: Console) -> Path:
    """Measures, writes after every section, and returns the path of the JSON file."""
    _check(job)
    out = _out(job)
    results: dict[str, Any] = {
        **describe_machine(["python", "-m", "experiments.benchmark", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "rows": [],
        "patches": [],
        "left_out": [],
    }
    results["device"]["cores"] = os.cpu_count()
    if any(name != "jax" for name in job.frameworks):
        results["versions"]["torch"] = importlib.metadata.version("torch")
    with console.status("compiling") as status:
        clock = time.perf_counter
        timer = sections.Timer(
            job.repeats,
            job.seconds,
            clock() + 60 * (math.inf if job.minutes is None else job.minutes),
            clock,
            status.update,
            results["left_out"],
        )
        for section in dict.fromkeys(job.sections):
            if not timer.skips(section):
                results |= _MEASURE[section](job, timer)
            _write(results, out)
    console.print(Markdown(markdown(results)))
    console.print(f"Everything is in {out} and the files beside it.", markup=False)
    return out


def _check(job: Job) -> None:
    torch_wanted = any(name != "jax" for name in job.frameworks) or job.torch_repo
    if torch_wanted and importlib.util.find_spec("torch") is None:
        raise UserError(
            "--frameworks and --torch-repo need PyTorch, which is not installed: "
            "pip install -e '.[benchmark]', or pass --frameworks jax."
        )
    if job.torch_repo is not None and not job.torch_repo.is_dir():
        raise UserError(f"--torch-repo {job.torch_repo} is not a folder.")
    check_bounds(job)
    if min(job.batch_size, default=0) < 1:
        raise UserError(f"--batch-size must be at least 1, got {job.batch_size}.")
    for name in ("model", "precision", "methods", "frameworks", "sections"):
        if not getattr(job, name):
            raise UserError(f"--{name} needs at least one value.")
    if "epoch" in job.sections and job.model[0] not in growth.DEPTHS:
        raise UserError(
            "--sections epoch is of CIFAR: the first --model must be one of "
            f"{', '.join(growth.DEPTHS)}, got {job.model[0]}."
        )


def _out(job: Job) -> Path:
    out = job.out or new_run_dir("benchmark", "--out") / "benchmark.json"
    if out.suffix != ".json":
        raise UserError(f"--out must end in .json, got {out}.")
    check_new_file(out)
    return out


def _write(results: dict[str, Any], out: Path) -> None:
    write_json(out, results)
    out.with_suffix(".md").write_text(markdown(results), encoding="utf-8")
    benchmark_figure(out.with_suffix(".png"), results)


def _first(job: Job) -> Workload:
    return Workload(job.model[0], job.batch_size[0], job.precision[0])


def _steps(job: Job, timer: sections.Timer) -> dict[str, Any]:
    results: dict[str, Any] = {"rows": [], "patches": []}
    for model in job.model:
        for batch_size in job.batch_size:
            for dtype in job.precision:
                workload = Workload(model, batch_size, dtype)
                if timer.skips(f"{model}, batch {batch_size}, {dtype}"):
                    continue
                contestants = list(
                    _contestants(job, workload, timer, results["patches"])
                )
                results["rows"] += sections.step_rows(contestants, timer)
    return results


def _contestants(
    job: Job, workload: Workload, timer: sections.Timer, patches: list[str]
):
    for method in dict.fromkeys(job.methods):
        for framework in _frameworks(job, method):
            if timer.skips(f"{framework} {workload.model} {method}"):
                continue
            timer.progress(f"compiling {framework} {workload.model} {method}")
            yield _contestant(framework, workload, method)
    if job.torch_repo is not None and workload.dtype == "float32":
        from experiments.benchmark.torch.authors import authors_step

        contestant, new = authors_step(workload, job.torch_repo)
        patches += [patch for patch in new if patch not in patches]
        yield contestant


def _frameworks(job: Job, method: Method) -> list[Framework]:
    """Returns the chosen frameworks; only JAX has focal_sam_unshared."""
    names = list(dict.fromkeys(job.frameworks))
    return names if method in METHODS else [name for name in names if name == "jax"]


def _contestant(framework: Framework, workload: Workload, method: Method) -> Contestant:
    if framework == "jax":
        return jax_step(workload, method)
    from experiments.benchmark.torch.steps import torch_step

    return torch_step(workload, method, compiled=framework == "torch_compile")


def _epoch(job: Job, timer: sections.Timer) -> dict[str, Any]:
    workload = _first(job)
    data, real = epoch.cifar100_lt(epoch.epoch_config(workload, "sgd"), job.data_dir)
    contestants = []
    for method in dict.fromkeys(job.methods):
        for framework in _frameworks(job, method):
            if framework == "jax":
                contestants.append(epoch.jax_epoch(workload, method, data))
                continue
            from experiments.benchmark.torch.epoch import torch_epoch

            contestants.append(
                torch_epoch(
                    workload,
                    method,
                    data,
                    compiled=framework == "torch_compile",
                    workers=job.workers,
                )
            )
    once = timer._replace(repeats=min(job.repeats, _EPOCHS), seconds=0.0)
    rows = sections.epoch_rows(contestants, once)
    return {"epochs": rows, "real_images": real, "workers": job.workers}


_MEASURE: dict[Section, Callable[[Job, sections.Timer], dict[str, Any]]] = {
    "steps": _steps,
    "epoch": _epoch,
    "seeds": lambda job, timer: {
        "seeds": sections.seed_rows(_first(job), job.methods, timer)
    },
    "growth": lambda job, timer: {
        "growth": sections.growth_rows(_first(job), job.methods, timer)
    },
}


def main() -> None:
    """Runs the command."""
    job = tyro.cli(Job, prog="python -m experiments.benchmark", args=sys.argv[1:])
    compute_right_sums()  # as the other commands do; it also changes times
    # Cached programs would hide the compile time.
    jax.config.update("jax_enable_compilation_cache", False)
    if "growth" in job.sections and "xla_force_host" not in os.environ.get(
        "XLA_FLAGS", ""
    ):
        jax.config.update("jax_num_cpu_devices", _HOST_DEVICES)
    # In a file, lines may be as long as the tables need.
    run(job, make_console(width=None if sys.stdout.isatty() else 160))


if __name__ == "__main__":
    exit_with(main)
