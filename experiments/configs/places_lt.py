"""Places-LT: ResNet-50 from scratch.

    python -m experiments.train --config places_lt --method focal_sam

62,500 training images in 365 classes (4980 to 5 per class), 7,300 for validation,
36,500 for test. The images come from TFDS's `places365_small`, and their selection from
the community's lists Places_LT_train.txt, Places_LT_val.txt and Places_LT_test.txt in
`data/places_lt/`.

Cost: 90 epochs of 244 steps of 256 images at 224 pixels.

Expected: no published number. The Focal-SAM paper's ResNets were not trained on it, and
others start from a ResNet-152 trained on ImageNet. Only the number of epochs and the
milestones differ from `imagenet_lt`.
"""

import dataclasses

from experiments.configs import imagenet_lt

RECIPE = dataclasses.replace(
    imagenet_lt.RECIPE,
    base=imagenet_lt.RECIPE.base.replace(
        config="places_lt",
        data="places_lt",
        epochs=90,
        milestones=(60, 80),
        rho_milestones=(72,),
        switch_epoch=63,
    ),
    losses={"ldam": {"head": "cosine", "drw_start": 72}},
)
