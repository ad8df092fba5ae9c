"""Digits-LT: a small vision transformer of CLIP's form, from scratch, with AdamW.

    python -m experiments.train --config vit_digits_lt --method focal_sam

The data of `digits_lt`: 8x8 pixels in 16 patches, 4 blocks of width 64, no
cross-example normalisation. `vit_digits_lt_sgd` is the same with SGD.

Cost: about a minute on two CPU cores. Expected: 93 % overall with AdamW, with
and without Focal-SAM (docs/results.md, by
`python -m experiments.compare --config vit_digits_lt --methods sgd focal_sam
--approximations reuse_ascent looksam --seeds 5`).
"""

from experiments.config import Config
from experiments.configs.recipe import Recipe, grid

RECIPE = Recipe(
    base=Config(
        config="vit_digits_lt",
        model="vit_digits",
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.05,
        warmup=5,
        epochs=200,
        switch_epoch=140,
    ),
    # The values of sgd and focal_sam were chosen from the grid by `--tune`.
    methods={
        "sgd": {"learning_rate": 2e-3, "weight_decay": 0.05},
        "sam": {"rho": 0.2},
        "imbsam": {"rho": 0.2, "tail_threshold": 20},
        "cc_sam": {"rho": 0.2, "alpha": 1.0},
        "sse_sam": {"rho": 0.2, "head_rho": 0.1, "tail_threshold": 20},
        "focal_sam": {"learning_rate": 1e-3, "rho": 0.2, "gamma": 1.0},
    },
    losses={"ldam": {"head": "cosine", "drw_start": 160}},
    compare_epochs=100,
    grid={
        "sgd": grid(learning_rate=(1e-3, 2e-3), weight_decay=(0.05, 0.5)),
        "focal_sam": grid(learning_rate=(1e-3, 2e-3), rho=(0.05, 0.2)),
    },
)
