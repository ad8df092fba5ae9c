"""iNaturalist 2018: ResNet-50 from scratch, as in the Focal-SAM paper.

    python -m experiments.train --config inaturalist18 --method focal_sam

437,513 training images in 8142 species (1000 to 2 per class). Its 24,426 validation
images, 3 per class, are the test set, so no split is left to choose an epoch by, unless
`--held-out` sets training images aside.

Cost: 200 epochs of 854 steps of 512 images at 224 pixels; 2 forward and 3 backward
passes per step with Focal-SAM. For many GPUs or TPU chips.

Expected: Focal-SAM 71.8 % overall (the figure of the published code, and public lists
of results). There the best epoch on the test set counts, here the last.

Sources. Focal-SAM's values, batch size, learning rate and weight decay: the published
command; its lam of 1.1 gives the plain gradient of every class a slightly negative
weight, which is allowed. Its augmentation, without colour jitter: the published
loader. Radii of SAM and ImbSAM: the default of the published scripts. Radius of
CC-SAM: ours.
"""

from experiments.configs import imagenet_lt
from experiments.configs.recipe import Recipe

RECIPE = Recipe(
    base=imagenet_lt.RECIPE.base.replace(
        config="inaturalist18",
        data="inaturalist18",
        augment="resized_crop",
        batch_size=512,
        learning_rate=0.2,
        weight_decay=2e-4,
        rho_values=(0.2, 0.2),
    ),
    methods=imagenet_lt.RECIPE.methods
    | {"focal_sam": {"rho": 0.2, "gamma": 2.0, "lam": 1.1}},
    losses=imagenet_lt.RECIPE.losses,
)
