"""Fashion-MNIST-LT as in `fashion_mnist_lt_small`, without augmentation.

    python -m experiments.train --config fashion_mnist_lt_overfit --data-dir DIR

The network then overfits: its training accuracy reaches 97 %, with augmentation 89 %.

Cost: 6960 steps; on one CPU core 2 minutes with SGD, 4 with SAM and 5 with Focal-SAM.

Expected: 87.0 % with SGD, 87.8 % with SAM, 87.5 % with Focal-SAM; docs/results.md.

Sources. The best candidates on held-out images with the logit-adjusted loss, by
`python -m experiments.compare --tune --config fashion_mnist_lt_overfit --methods sgd
sam focal_sam --data-dir DIR`; the other methods have the same radius.
"""

from dataclasses import replace

from experiments.configs import fashion_mnist_lt_small
from experiments.configs.recipe import grid

RECIPE = replace(
    fashion_mnist_lt_small.RECIPE,
    base=fashion_mnist_lt_small.RECIPE.base.replace(
        config="fashion_mnist_lt_overfit",
        augment="none",
        learning_rate=0.4,
        weight_decay=1e-3,
    ),
    methods={
        "sgd": {},
        "sam": {"rho": 0.05},
        "imbsam": {"rho": 0.05, "tail_threshold": 200},
        "cc_sam": {"rho": 0.05, "perturbed": "head"},
        "sse_sam": {"rho": 0.05, "head_rho": 0.05, "tail_threshold": 200},
        "focal_sam": {"rho": 0.05},
    },
    # Learning rate and weight decay were not tuned for another loss.
    losses={"ldam": fashion_mnist_lt_small.RECIPE.losses["ldam"]},
    # Six candidates for each method, with plain SGD's best of nine pairs of learning
    # rate and weight decay.
    grid={
        "sgd": grid(learning_rate=(0.2, 0.4, 0.8), weight_decay=(2e-4, 1e-3, 5e-3)),
        "sam": grid(rho=(0.02, 0.05, 0.1, 0.2, 0.3, 0.5)),
        "imbsam": grid(rho=(0.02, 0.05, 0.1, 0.2, 0.3, 0.5)),
        "cc_sam": grid(rho=(0.02, 0.05, 0.1, 0.2, 0.3, 0.5)),
        "sse_sam": grid(rho=(0.05, 0.1, 0.2), head_rho=(0.02, 0.1)),
        "focal_sam": grid(rho=(0.05, 0.1, 0.2), gamma=(1.0, 3.0)),
    },
)
