"""CIFAR-10-LT at imbalance factor 100: CLIP ViT-B/16 with AdaptFormer.

    python -m experiments.train --config clip_cifar10_lt --weights FOLDER

12,406 training images. AdaptFormer has 46,104 parameters here, and the head 7,680.

Cost: 20 epochs of 96 steps; see `clip_cifar100_lt`.

Expected: no number is stated in the published code.

Sources: as in `clip_cifar100_lt`, with the published command for CIFAR-10. ImbSAM's
tail is the few-shot classes.
"""

from experiments.configs import clip_cifar100_lt
from experiments.configs.recipe import Recipe

RECIPE = Recipe(
    base=clip_cifar100_lt.RECIPE.base.replace(config="clip_cifar10_lt", data="cifar10"),
    methods={
        **clip_cifar100_lt.RECIPE.methods,
        "imbsam": {"rho": 0.05, "tail_threshold": 200},
        "sse_sam": {"rho": 0.05, "head_rho": 0.025, "tail_threshold": 200},
        "focal_sam": {"rho": 0.05, "gamma": 1.5, "lam": 0.7},
    },
    losses=clip_cifar100_lt.RECIPE.losses,
)
