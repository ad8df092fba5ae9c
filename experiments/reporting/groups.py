"""Runs that differ in nothing but seeds make a group, named by what sets it apart."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.config import METHOD_NAMES, METHODS
from experiments.errors import UserError
from experiments.reporting.runs import FinishedRun, find_runs

# What runs of one group may differ in: seeds, and what changes no number of a run.
_FREE = {"seed", "subset_seed", "eval_every", "checkpoint_every", "sharpness_every"}
# The fields that name a group, the most telling first; all others come after them.
_FIRST = ("config", "method", "approximation", "loss", "model", "imbalance_factor")
_FIRST += ("rho", "gamma")
# Their values speak for themselves.
_BARE = {"config", "method", "loss", "model", "head", "augment"}


class Group(NamedTuple):
    """Runs of one configuration.

    Attributes:
      name: method and what else sets it apart from the other groups of its data set.
      config: of the first run, as JSON.
      runs: one for each pair of seeds, in their order.
    """

    name: str
    config: dict[str, Any]
    runs: list[FinishedRun]


def find_groups(
    paths: Sequence[Path],
) -> tuple[dict[str, list[Group]], dict[Path, str]]:
    """The groups of each data set in folders, and what was left out, with the reason.

    Args:
      paths: folders of runs, or folders that hold such folders.

    Raises:
      UserError: if there are none, one of them holds no run, or a file of a run cannot
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
    """The groups of each data set, and the runs that were left out, with the reason.

    Groups come by recipe, then in the order in which methods are always listed. Of runs
    that repeat each other, the same configuration and seeds, the first is taken.
    """
    found: dict[str, dict[tuple[int, int], FinishedRun]] = {}
    left_out = {}
    for run in runs:
        of_seeds = found.setdefault(_identity(run.config), {})
        first = of_seeds.setdefault(run.seeds, run)
        if first is not run:
            left_out[run.folder] = f"repeats {first.folder}"
    by_data: dict[str, list[list[FinishedRun]]] = {}
    for of_seeds in found.values():
        members = [of_seeds[seeds] for seeds in sorted(of_seeds)]
        by_data.setdefault(members[0].config["data"], []).append(members)
    return {data: _named(by_data[data]) for data in sorted(by_data)}, left_out


def differing_fields(configs: Sequence[dict[str, Any]]) -> list[str]:
    """The fields in which configurations differ, the most telling first."""
    fields = dict.fromkeys((*_FIRST, *(name for config in configs for name in config)))
    return [
        field
        for field in fields
        if field not in _FREE
        and len({json.dumps(config.get(field)) for config in configs}) > 1
    ]


def show(value: Any) -> str:
    """A value of a configuration, as text."""
    if isinstance(value, list):
        return " ".join(map(show, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value is None else str(value)


def _identity(config: dict[str, Any]) -> str:
    kept = {name: value for name, value in config.items() if name not in _FREE}
    return json.dumps(kept, sort_keys=True)


def _named(groups: list[list[FinishedRun]]) -> list[Group]:
    configs = [members[0].config for members in groups]
    fields = differing_fields(configs)
    order = sorted(
        range(len(groups)), key=lambda i: [_rank(f, configs[i].get(f)) for f in fields]
    )
    return [Group(_name(configs[i], configs), configs[i], groups[i]) for i in order]


def _rank(field: str, value: Any) -> tuple:
    """Methods by their list, numbers by size, ``None`` before all."""
    if field == "method" and value in METHODS:
        return (1, METHODS.index(value))
    return (0,) if value is None else (1, value)


def _name(config: dict[str, Any], others: list[dict[str, Any]]) -> str:
    """Recipe where recipes differ, method, loss where losses differ, and then as many
    of the other fields as it takes to leave no other group of the same name."""
    fields = [f for f in differing_fields(others) if f in ("config", "loss")]
    parts = {field: config[field] for field in ("config", "method", "loss")}
    parts = {f: v for f, v in parts.items() if f == "method" or f in fields}
    while True:
        alike = [o for o in others if all(o.get(f) == v for f, v in parts.items())]
        left = differing_fields(alike)
        if not left:
            break
        parts[left[0]] = config.get(left[0])
    return ", ".join(_told(field, value) for field, value in parts.items())


def _told(field: str, value: Any) -> str:
    if field == "method" and value in METHOD_NAMES:
        return METHOD_NAMES[value]
    return show(value) if field in _BARE else f"{field.replace('_', ' ')} {show(value)}"
