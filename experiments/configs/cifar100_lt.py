"""CIFAR-100-LT at imbalance factor 100: ResNet-32, as in the Focal-SAM paper.

    python -m experiments.train --config cifar100_lt --method focal_sam

10,847 training images (500 to 5 a class), 10,000 balanced test images. `--loss` takes
ce, ldam (with deferred re-weighting and a cosine head), vs and la.

Cost: 200 epochs of 169 steps. A Focal-SAM step takes about 1 s on two CPU cores, so
this wants a GPU or TPU; on a CPU pass a small `--epochs`. CC-SAM passes over a hundred
classes a step.

Expected: Focal-SAM about 50.6 % overall, read off a figure of the published code that
does not state its loss. That code reports the best epoch on the test set; here it is
the last, or the best on `--held-out` training images.

Sources: as in `cifar10_lt`, with the published command for CIFAR-100. SAM's radius:
Rangwani et al., NeurIPS 2022, for cross-entropy. ImbSAM's tail: fewer than 20 images.
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
        "focal_sam": {"rho": 0.3, "gamma": 3.2, "lam": 0.8},
    },
    losses=cifar10_lt.RECIPE.losses,
)
