"""ImageNet-LT: CLIP ViT-B/16 with AdaptFormer.

    python -m experiments.train --config clip_imagenet_lt --weights FOLDER \
        --class-names FILE

115,846 training images in 1000 classes. AdaptFormer has 617,868 parameters here, and
the head 768,000. The data have no class names for prompts, so FILE gives them: lines of
`n01440764`, tab, `tench`, or names in the order of the labels.

Cost: 20 epochs of 905 steps of 128 images at 224 pixels.

Expected: no number is stated in the published code, which has the same test images.

Sources: as in `clip_cifar100_lt`, with the published command for ImageNet-LT. As in
that command, colours are unchanged, and test images are resized to 224 pixels without a
margin.
"""

from experiments.configs import clip_cifar100_lt, imagenet_lt
from experiments.configs.recipe import Recipe

_CLIP = clip_cifar100_lt.RECIPE

RECIPE = Recipe(
    base=_CLIP.base.replace(
        config="clip_imagenet_lt",
        data=imagenet_lt.RECIPE.base.data,
        image_size=224,
        input_size=None,
        test_resize=224,
        imbalance="natural",
    ),
    methods={
        **_CLIP.methods,
        "focal_sam": {"rho": 0.05, "gamma": 0.5, "lam": 0.8},
    },
    losses=_CLIP.losses,
)
