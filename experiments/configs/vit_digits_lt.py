"""Digits-LT: a small vision transformer of CLIP's form, from scratch, with AdamW.

    python -m experiments.train --config vit_digits_lt --method focal_sam

The data of `digits_lt`: 8x8 pixels in 16 patches, 4 blocks of width 64, no
normalisation that mixes examples. `vit_digits_lt_sgd` is the same with SGD.

Cost: about a minute on two CPU cores. Expected: see the README's table, by
`python -m experiments.compare --config vit_digits_lt`.
"""

from experiments.configs import digits_lt
from experiments.configs.digits_lt import grid
from experiments.configs.recipe import Recipe

RECIPE = Recipe(
    base=digits_lt.RECIPE.base.replace(
        config="vit_digits_lt",
        model="vit_digits",
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.05,
        warmup=5,
        epochs=200,
    ),
    methods={
        "sgd": {},
        "sam": {"rho": 0.05},
        "imbsam": {"rho": 0.05, "tail_threshold": 20},
        "cc_sam": {"rho": 0.05, "alpha": 1.0},
        "focal_sam": {"rho": 0.1, "gamma": 1.0},
    },
    losses=digits_lt.RECIPE.losses,
    compare_epochs=100,
    grid={
        "sgd": grid(learning_rate=(1e-3, 2e-3), weight_decay=(0.05, 0.5)),
        "focal_sam": grid(learning_rate=(1e-3, 2e-3), rho=(0.05, 0.2)),
    },
)
