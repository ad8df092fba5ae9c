"""iNaturalist 2018: ResNet-50 from scratch, as in the Focal-SAM paper.

    python -m experiments.train --config inaturalist18 --method focal_sam

437,513 training images in 8142 species (1000 to 2 a class); its 24,426 validation
images, 3 a class, are the test set, so nothing is left to choose an epoch by unless
`--held-out` sets training images aside.

Cost: 200 epochs of 854 steps of 512 images at 224 pixels; 2 forward and 3 backward
passes each with Focal-SAM. For many GPUs or TPU chips.

Expected: Focal-SAM 71.8 % overall (the figure of the published code, and public lists
of results); the last epoch here, the best on the test set there.

Sources. Focal-SAM's values, batch size, learning rate and weight decay: the published
command; its lam of 1.1 weighs the plain gradient of frequent classes slightly
negatively, which is allowed. Its augmentation, without colour jitter: the published
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
