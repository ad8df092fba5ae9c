"""CIFAR-100-LT at imbalance factor 100: ResNet-32, as in the Focal-SAM paper.

    python -m experiments.train --config cifar100_lt --method focal_sam

10,847 training images (500 to 5 per class), 10,000 balanced test images. `--loss` takes
ce, focal, ldam (with deferred re-weighting and a cosine head), vs and la.

Cost: 200 epochs of 169 steps. A Focal-SAM step takes about 1 s on two CPU cores, so use
a GPU or TPU; on a CPU pass a small `--epochs`. CC-SAM loops over a hundred classes per
step.

Expected: Focal-SAM about 50.6 % overall, read from a figure of the published code that
does not state its loss. That code reports the best epoch on the test set; here it is
the last epoch, or the best on `--held-out` training images.

Other factors: `cifar100_lt_if10`, `_if20`, `_if50` and `_if200` differ only in the
tail. Images (of the rarest class), steps per epoch, and the numbers in public lists of
results for Focal-SAM, probably with cross-entropy (`--loss ce`):

    _if10    19,573 (50)    305 steps
    _if20    15,907 (25)    248 steps
    _if50    12,608 (10)    197 steps    48.1 % overall
    _if200    9,502 (2)     148 steps

Sources: as in `cifar10_lt`, with the published command for CIFAR-100. SAM's radius:
Rangwani et al., NeurIPS 2022, for cross-entropy. ImbSAM's tail: fewer than 20 images;
SSE-SAM's: fewer than 100, as in its published command.
"""

from experiments.configs import cifar10_lt
from experiments.configs.recipe import Recipe

RECIPE = Recipe(
    base=cifar10_lt.RECIPE.base.replace(
        config="cifar100_lt", data="cifar100", weight_decay=1e-3
    ),
    methods={
        "sgd": {},
        "sam": {"rho": 0.2},
        "imbsam": {"rho": 0.05, "tail_threshold": 20},
        "cc_sam": {"rho": 0.05, "alpha": 1.0},
        "sse_sam": {"rho": 0.1, "tail_threshold": 100},
        "focal_sam": {"rho": 0.3, "gamma": 3.2, "lam": 0.8},
    },
    losses=cifar10_lt.RECIPE.losses,
)

OTHER_FACTORS = [RECIPE.with_factor(factor) for factor in (10, 20, 50, 200)]
