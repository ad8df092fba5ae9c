"""Digits-LT: a small ResNet on a long-tailed cut of scikit-learn's handwritten digits.

    python -m experiments.train --config digits_lt --method focal_sam

1797 real images of 8x8 pixels come with scikit-learn, so nothing is downloaded. 50 of
each class are the test set, 24 the validation set; from the rest an exponential tail is
cut, 100, 68, 46, 32, 22, 15, 10, 7, 4 and 3 images at imbalance factor 30. Which digit
has which rank in the tail follows the subset seed.
"""

from experiments.config import Config, Method

BASE = Config(
    config="digits_lt",
    method="focal_sam",
    seed=0,
    subset_seed=0,
    epochs=400,
    batch_size=32,
    learning_rate=0.1,
    momentum=0.9,
    weight_decay=5e-3,
    loss="la",
    imbalance_factor=30.0,
    augment=True,
    width=16,
    rho=0.0,
    gamma=1.0,
    lam=1.0,
    tail_threshold=20,
    alpha=1.0,
    eval_every=5,
    checkpoint_every=20,
)

# Epochs of every run in `python -m experiments.compare`, where CC-SAM's many passes
# would take long otherwise. Accuracy is flat from about here on.
COMPARE_EPOCHS = 60

# What `python -m experiments.compare --tune` chose from GRID.
TUNED: dict[Method, dict[str, float]] = {
    "sgd": {},
    "sam": {"rho": 0.2},
    "imbsam": {"rho": 0.2},
    "cc_sam": {"rho": 0.2},
    "focal_sam": {"rho": 0.2},
}

# The candidates, as many for each method; SGD has only its own two numbers to choose.
_RADII = (0.1, 0.2, 0.4)
GRID: dict[Method, list[dict[str, float]]] = {
    "sgd": [
        {"learning_rate": learning_rate, "weight_decay": weight_decay}
        for learning_rate in (0.1, 0.2)
        for weight_decay in (2e-3, 5e-3, 1e-2)
    ],
    "sam": [
        {"learning_rate": learning_rate, "rho": rho}
        for learning_rate in (0.1, 0.2)
        for rho in _RADII
    ],
    "imbsam": [
        {"tail_threshold": threshold, "rho": rho}
        for threshold in (10, 40)
        for rho in _RADII
    ],
    "cc_sam": [{"alpha": alpha, "rho": rho} for alpha in (0.5, 1.0) for rho in _RADII],
    "focal_sam": [
        {"gamma": gamma, "rho": rho} for gamma in (1.0, 3.0) for rho in _RADII
    ],
}
