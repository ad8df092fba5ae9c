"""Groups of runs that differ only in seeds, named by their differing options."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.config import METHOD_NAMES, METHODS
from experiments.errors import UserError
from experiments.reporting.runs import FinishedRun, find_runs

# Options that may differ within a group: seeds, and those that change no result.
_FREE = {"seed", "subset_seed", "eval_every", "checkpoint_every", "sharpness_every"}
# Fields that name a group, in order of importance; all others come after them.
_FIRST = ("config", "method", "approximation", "loss", "model", "imbalance_factor")
_FIRST += ("rho", "gamma")
# Their values are shown without the field name.
_BARE = {"config", "method", "loss", "model", "head", "augment"}


class Group(NamedTuple):
    """Runs of one configuration.

    Attributes:
      name: method and other options that differ from other groups of its data set.
      config: configuration of the first run, as JSON.
      runs: one run for each pair of seeds, in their order.
    """

    name: str
    config: dict[str, Any]
    runs: list[FinishedRun]


def find_groups(
    paths: Sequence[Path],
) -> tuple[dict[str, list[Group]], dict[Path, str]]:
    """Returns the groups of each data set, and the folders left out, with reasons.

    Args:
      paths: folders of runs, or folders that hold such folders.

    Raises:
      UserError: if ``paths`` is empty, no folder holds a run, or a file of a run cannot
        be read.
    """
    if not paths:
        raise UserError(
            "no RUN_DIR was given: pass folders of runs, such as runs/* or runs."
        )
    runs, left_out = find_runs(paths)
    by_data, repeated = grouped(runs)
    return by_data, left_out | repeated


def grouped(
    runs: Iterable[FinishedRun],
) -> tuple[dict[str, list[Group]], dict[Path, str]]:
    """Returns the groups of each data set, and the runs left out, with reasons.

    Groups are sorted by recipe, then by method in the order of ``METHODS``. Of runs
    with the same configuration and seeds, the first is used.
    """
    found: dict[str, dict[tuple[int, int], FinishedRun]] = {}
    left_out = {}
    for run in runs:
        of_seeds = found.setdefault(_identity(run.config), {})
        first = of_seeds.setdefault(run.seeds, run)
        if first is not run:
            left_out[run.folder] = f"same settings and seeds as {first.folder}"
    by_data: dict[str, list[list[FinishedRun]]] = {}
    for of_seeds in found.values():
        members = [of_seeds[seeds] for seeds in sorted(of_seeds)]
        by_data.setdefault(members[0].config["data"], []).append(members)
    return {data: _named(by_data[data]) for data in sorted(by_data)}, left_out


def differing_fields(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Returns the fields in which configurations differ, by importance."""
    fields = dict.fromkeys((*_FIRST, *(name for config in configs for name in config)))
    return [
        field
        for field in fields
        if field not in _FREE
        and any(config.get(field) != configs[0].get(field) for config in configs)
    ]


def show(value: Any) -> str:
    """Returns a value of a configuration as text."""
    if isinstance(value, list):
        return " ".join(map(show, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def _identity(config: dict[str, Any]) -> str:
    kept = {name: value for name, value in config.items() if name not in _FREE}
    # 1 and 1.0 are the same setting.
    alike = {n: float(v) if type(v) is int else v for n, v in kept.items()}
    return json.dumps(alike, sort_keys=True)


def _named(groups: list[list[FinishedRun]]) -> list[Group]:
    configs = [members[0].config for members in groups]
    fields = differing_fields(configs)
    order = sorted(
        range(len(groups)), key=lambda i: [_rank(f, configs[i].get(f)) for f in fields]
    )
    return [Group(_name(configs[i], configs), configs[i], groups[i]) for i in order]


def _rank(field: str, value: Any) -> tuple:
    """Returns a sort key: methods as listed, numbers by size, ``None`` first."""
    if field == "method" and value in METHODS:
        return (1, METHODS.index(value))
    return (0,) if value is None else (1, value)


def _name(config: dict[str, Any], others: list[dict[str, Any]]) -> str:
    """Returns the recipe if recipes differ, the method, the loss if losses differ, and
    as many other fields as make the name unique.

    Of these other fields, a value that more than half of the groups have is left out.
    """
    fields = [f for f in differing_fields(others) if f in ("config", "loss")]
    parts = {field: config[field] for field in ("config", "method", "loss")}
    parts = {f: v for f, v in parts.items() if f == "method" or f in fields}
    told = set(parts)
    while True:
        alike = [o for o in others if all(o.get(f) == v for f, v in parts.items())]
        left = differing_fields(alike)
        if not left:
            break
        field, value = left[0], config.get(left[0])
        parts[field] = value
        if sum(other.get(field) == value for other in others) <= len(others) / 2:
            told.add(field)
    return ", ".join(_told(field, parts[field]) for field in parts if field in told)


def _told(field: str, value: Any) -> str:
    if field == "method" and value in METHOD_NAMES:
        return METHOD_NAMES[value]
    return show(value) if field in _BARE else f"{field.replace('_', ' ')} {show(value)}"
