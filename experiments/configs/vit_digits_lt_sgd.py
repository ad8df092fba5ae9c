"""Digits-LT: the vision transformer of `vit_digits_lt`, with SGD.

    python -m experiments.train --config vit_digits_lt_sgd --method focal_sam

Cost: the same. Expected: 92 % overall, with and without Focal-SAM (docs/results.md,
by `python -m experiments.compare --config vit_digits_lt_sgd --methods sgd
focal_sam`).
"""

from dataclasses import replace

from experiments.configs import vit_digits_lt
from experiments.configs.recipe import grid

RECIPE = replace(
    vit_digits_lt.RECIPE,
    base=vit_digits_lt.RECIPE.base.replace(
        config="vit_digits_lt_sgd",
        optimizer="sgd",
        learning_rate=0.05,
        weight_decay=5e-4,
    ),
    # The values of sgd and focal_sam were chosen from the grid by `--tune`.
    methods={
        "sgd": {"learning_rate": 0.05, "weight_decay": 5e-4},
        "sam": {"rho": 0.1},
        "imbsam": {"rho": 0.1, "tail_threshold": 20},
        "cc_sam": {"rho": 0.1, "alpha": 1.0},
        "sse_sam": {"rho": 0.1, "head_rho": 0.05, "tail_threshold": 20},
        "focal_sam": {"learning_rate": 0.05, "rho": 0.05, "gamma": 1.0},
    },
    grid={
        "sgd": grid(learning_rate=(0.02, 0.05), weight_decay=(5e-4, 5e-3)),
        "focal_sam": grid(learning_rate=(0.02, 0.05), rho=(0.05, 0.2)),
    },
)
