"""iNaturalist 2018: CLIP ViT-B/16 with AdaptFormer.

    python -m experiments.train --config clip_inaturalist18 --weights FOLDER \
        --class-names FILE

437,513 training images in 8142 species. AdaptFormer has 4,749,324 parameters here, and
the head 6,253,056. Prompts need names of the species: FILE has lines of class in the
data, tab, name. This assigns names to the right labels; the published code mixes them
up.

Cost: 20 epochs of 3418 steps of 128 images at 224 pixels.

Expected: no number is stated in the published code.

Sources: as in `clip_cifar100_lt`, with the published command for iNaturalist 2018,
which computes in float32.
"""

from experiments.configs import clip_imagenet_lt
from experiments.configs.recipe import Recipe

RECIPE = Recipe(
    base=clip_imagenet_lt.RECIPE.base.replace(
        config="clip_inaturalist18",
        data="inaturalist18",
        test_resize=256,
        precision="float32",
    ),
    methods={
        **clip_imagenet_lt.RECIPE.methods,
        "focal_sam": {"rho": 0.02, "gamma": 0.2, "lam": 1.0},
    },
    losses=clip_imagenet_lt.RECIPE.losses,
)
