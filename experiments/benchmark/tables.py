"""The results as Markdown."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from experiments.reporting.tables import markdown_lines

Row = dict[str, Any]
# A header, and a function from row to cell.
Column = tuple[str, Callable[[Row], str]]


def markdown(results: dict[str, Any]) -> str:
    """Returns Markdown of the measured sections, and explains their numbers."""
    device, versions = results["device"], results["versions"]
    known = [
        f"{name} {versions[name]}"
        for name in ("jax", "flax", "optax", "torch")
        if name in versions
    ]
    lines = [
        f"# Benchmark: {device['kind']}, {results['date']}",
        "",
        f"{device['cores']} CPU cores; {', '.join(known)}.",
        "",
        f"`{' '.join(results['command'])}`",
    ]
    for section, show in _SECTIONS.items():
        if results.get(section):
            lines += ["", *show(results)]
    if results["left_out"]:
        lines += ["", f"Left out for lack of time: {'; '.join(results['left_out'])}."]
    return "\n".join(lines) + "\n"


def _steps(results):
    columns: list[Column] = [
        *_WHO,
        *_TIME,
        ("examples/s", lambda row: _three_digits(row["examples_per_s"])),
        ("/ SGD", _ratio("ratio_sgd")),
        ("/ SAM", _ratio("ratio_sam")),
        ("GFLOP", lambda row: f"{row['flops'] / 1e9:,.2f}"),
        ("peak MB", lambda row: f"{row['peak_bytes'] / 1e6:,.0f}"),
        ("compile s", lambda row: f"{row['compile_s']:.1f}"),
    ]
    lines = [
        "## Steps",
        "",
        "Median, minimum and maximum over the rounds; ratios are within one framework. "
        "FLOPs: all arithmetic in JAX, only matrix products and convolutions in "
        "PyTorch. Peak: all memory in use at one time in a step.",
    ]
    for patch in results["patches"]:
        lines += ["", f"torch_authors is patched while it runs: {patch}."]
    for workload, rows in _by_workload(results["rows"]):
        lines += ["", f"### {workload}", "", *_table(columns, rows)]
    return lines


def _epochs(results):
    columns: list[Column] = [
        *_WHO,
        ("steps", lambda row: str(row["steps"])),
        ("s", lambda row: f"{row['s_median']:,.2f}"),
        ("/ SGD", _ratio("ratio_sgd")),
    ]
    what = "the real images" if results["real_images"] else "random pixels"
    return [
        "## An epoch of CIFAR-100-LT",
        "",
        f"{_workload(results['epochs'][0])}. Includes shuffling, reading and "
        f"augmenting images, and every step, on {what}. JAX: the epoch of "
        "experiments.train, with the data on the device. PyTorch: a `DataLoader` with "
        f"{results['workers']} worker processes.",
        "",
        *_table(columns, results["epochs"]),
    ]


def _seeds(results):
    columns: list[Column] = [
        ("method", lambda row: row["method"]),
        ("seeds", lambda row: str(row["seeds"])),
        *_TIME,
        ("/ one seed", _ratio("ratio_one_seed")),
        ("peak MB", lambda row: f"{row['peak_bytes'] / 1e6:,.0f}"),
        ("compile s", lambda row: f"{row['compile_s']:.1f}"),
    ]
    return [
        "## Seeds in one program",
        "",
        f"{_workload(results['seeds'][0])}. `vmap` over the whole training state; each "
        "seed has its own batch.",
        "",
        *_table(columns, results["seeds"]),
    ]


def _growth(results):
    columns: list[Column] = [
        ("over", lambda row: row["over"].replace("_", " ")),
        ("", lambda row: f"{row['value']:,}"),
        ("method", lambda row: row["method"]),
        *_TIME,
        ("/ SGD", _ratio("ratio_sgd")),
        ("GFLOP", lambda row: f"{row['flops'] / 1e9:,.2f}"),
        ("peak MB", lambda row: f"{row['peak_bytes'] / 1e6:,.0f}"),
    ]
    return [
        "## Growth",
        "",
        "One quantity grows, the others are fixed. Host devices share the cores of the "
        "machine. CC-SAM is left out for convolutional networks with many classes on "
        "CPU; where it is a loop over the classes, the FLOPs are those of one "
        "iteration.",
        "",
        *_table(columns, results["growth"]),
    ]


_SECTIONS = {"rows": _steps, "epochs": _epochs, "seeds": _seeds, "growth": _growth}

_WHO: list[Column] = [
    ("framework", lambda row: row["framework"]),
    ("method", lambda row: row["method"]),
]
_TIME: list[Column] = [
    ("ms", lambda row: f"{row['ms_median']:,.1f}"),
    ("from–to", lambda row: f"{row['ms_min']:,.1f}–{row['ms_max']:,.1f}"),
]


def _workload(row: Row) -> str:
    return f"{row['model']}, batch {row['batch_size']}, {row['dtype']}"


def _by_workload(rows: Sequence[Row]) -> Iterator[tuple[str, list[Row]]]:
    for workload in dict.fromkeys(map(_workload, rows)):
        yield workload, [row for row in rows if _workload(row) == workload]


def _three_digits(number):
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _ratio(field):
    return lambda row: "" if row[field] is None else f"{row[field]:.2f}"


def _table(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    header = [name for name, _ in columns]
    cells = [[cell(row) for _, cell in columns] for row in rows]
    return markdown_lines(header, cells).splitlines()
