"""Rates of matrix products and copies on the device, to compare a step with.

The rates are measured, not taken from a data sheet.
"""

from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmark.contestant import Contestant
from experiments.benchmark.workload import Precision

# Large enough for the best rate, small enough for a step to take little time.
_SIDE = {"cpu": 1536}
_LARGE_SIDE = 8192
_COPIED = {"cpu": 2**27}
_LARGE_COPY = 2**30


def limit_contestants(precisions: tuple[Precision, ...]) -> list[Contestant]:
    """Returns a product of square matrices per precision, and a copy."""
    return [*map(_matmul, dict.fromkeys(precisions)), _copy()]


def limit_rows(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns FLOP/s by precision and bytes/s, from the contestants' rows."""
    rates = {
        row["dtype"]: row["flops"] / (1e-3 * row["ms_min"])
        for row in rows
        if row["limit"] == "matmul"
    }
    (copy,) = (row for row in rows if row["limit"] == "copy")
    return {
        "matmul_flops_per_s": rates,
        "copy_bytes_per_s": copy["bytes_accessed"] / (1e-3 * copy["ms_min"]),
    }


def distance(row: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    """Returns FLOP/s and bytes/s of a step, and their share of the device's rates.

    The compiler counts the bytes, including those that stay in a cache, so their share
    can be above one.
    """
    seconds = 1e-3 * row["ms_median"]
    flops_per_s = row["flops"] / seconds
    moved = row["bytes_accessed"]
    bytes_per_s = moved / seconds if moved is not None else None
    return {
        "flops_per_s": flops_per_s,
        "share_of_matmul": flops_per_s / limits["matmul_flops_per_s"][row["dtype"]],
        "bytes_per_s": bytes_per_s,
        "share_of_copy": (
            bytes_per_s / limits["copy_bytes_per_s"] if bytes_per_s else None
        ),
    }


def _matmul(dtype: Precision) -> Contestant:
    side = _SIDE.get(jax.default_backend(), _LARGE_SIDE)
    a = jnp.full((side, side), 1 / side, dtype)
    multiply = jax.jit(lambda x: a @ x)

    def run(turns):
        x = a
        for _ in range(turns):
            x = multiply(x)
        jax.block_until_ready(x)

    return Contestant(
        {"limit": "matmul", "dtype": dtype},
        run,
        {"flops": 2.0 * side**3, "bytes_accessed": 3.0 * a.nbytes},
    )


def _copy() -> Contestant:
    size = _COPIED.get(jax.default_backend(), _LARGE_COPY)
    start = jnp.zeros(size // 4, jnp.float32)
    copy = jax.jit(lambda x: x + 1)

    def run(turns):
        x = start
        for _ in range(turns):
            x = copy(x)
        jax.block_until_ready(x)

    return Contestant(
        {"limit": "copy", "dtype": "float32"},
        run,
        {"flops": float(start.size), "bytes_accessed": 2.0 * start.nbytes},
    )
