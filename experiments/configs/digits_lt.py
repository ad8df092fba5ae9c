"""Digits-LT: a small ResNet on a long-tailed subset of scikit-learn's digits.

    python -m experiments.train --config digits_lt --method focal_sam

1797 real images of 8x8 handwritten digits come with scikit-learn, so nothing is
downloaded. 50 of each class are the test set, 24 the validation set. From the rest an
exponential tail is cut: 100, 68, 46, 32, 22, 15, 10, 7, 4 and 3 images at imbalance
factor 30. The subset seed decides the rank of each digit. Weight decay is chosen for
plain SGD, so the other methods have less to gain.

Cost: about a minute on two CPU cores. Expected: 95 to 96 % overall with every method,
by `python -m experiments.compare`.
"""

from experiments.config import Config
from experiments.configs.recipe import Recipe, grid

_LEARNING_RATES = (0.1, 0.2)

RECIPE = Recipe(
    base=Config(),
    # Chosen from the grid by `python -m experiments.compare --tune`; SSE-SAM was not
    # tuned and has ImbSAM's values.
    methods={
        "sgd": {"learning_rate": 0.1, "weight_decay": 5e-3},
        "sam": {"learning_rate": 0.2, "rho": 0.1},
        "imbsam": {"learning_rate": 0.1, "rho": 0.1, "tail_threshold": 40},
        "cc_sam": {"learning_rate": 0.1, "rho": 0.1, "alpha": 1.0},
        "sse_sam": {"learning_rate": 0.1, "rho": 0.1, "tail_threshold": 40},
        "focal_sam": {"learning_rate": 0.2, "rho": 0.2, "gamma": 3.0},
    },
    losses={"ldam": {"head": "cosine", "drw_start": 320}},
    # CC-SAM's many passes would take long otherwise. After these, accuracy is flat.
    compare_epochs=60,
    # Eight candidates for each method: the same two learning rates, and its own
    # hyper-parameters.
    grid={
        "sgd": grid(
            learning_rate=_LEARNING_RATES, weight_decay=(2e-3, 5e-3, 1e-2, 2e-2)
        ),
        "sam": grid(learning_rate=_LEARNING_RATES, rho=(0.05, 0.1, 0.2, 0.4)),
        "imbsam": grid(
            learning_rate=_LEARNING_RATES, rho=(0.1, 0.2), tail_threshold=(10, 40)
        ),
        "cc_sam": grid(learning_rate=_LEARNING_RATES, rho=(0.1, 0.2), alpha=(0.5, 1.0)),
        "sse_sam": grid(
            learning_rate=_LEARNING_RATES, rho=(0.1, 0.2), tail_threshold=(10, 40)
        ),
        "focal_sam": grid(
            learning_rate=_LEARNING_RATES, rho=(0.1, 0.2), gamma=(1.0, 3.0)
        ),
    },
)
