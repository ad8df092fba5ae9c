"""ImageNet-LT: ResNet-50 from scratch, as in the Focal-SAM paper.

    python -m experiments.train --config imagenet_lt --method focal_sam

115,846 training images in 1000 classes (1280 to 5 per class), 20,000 for validation.
The test set is the 50,000 images of ImageNet's validation set.

Cost: 200 epochs of 452 steps of 256 images at 224 pixels; 2 forward and 3 backward
passes per step with Focal-SAM. For several GPUs or TPU chips.

Expected: Focal-SAM 54.3 % overall (the figure of the published code, and public lists
of results). There the best epoch on the test set counts, here the last.

Sources. Focal-SAM's values with radius 0.1, and 0.2 from epoch 160 on, batch size,
learning rate and weight decay: the published command. Its augmentation: the published
loader. Radii of SAM and ImbSAM: the default of the published scripts. SSE-SAM: as in
`cifar10_lt`. Radius of CC-SAM: ours.
"""

from experiments.config import Config
from experiments.configs.recipe import Recipe

RECIPE = Recipe(
    base=Config(
        config="imagenet_lt",
        data="imagenet_lt",
        image_size=224,
        imbalance="natural",
        augment="resized_crop_jitter",
        model="resnet50",
        epochs=200,
        batch_size=256,
        learning_rate=0.1,
        milestones=(160, 180),
        weight_decay=5e-4,
        rho_milestones=(160,),
        rho_values=(0.1, 0.2),
        switch_epoch=140,
        eval_every=5,
        checkpoint_every=5,
    ),
    methods={
        "sgd": {},
        "sam": {"rho": 0.05},
        "imbsam": {"rho": 0.05, "tail_threshold": 20},
        "cc_sam": {"rho": 0.05, "alpha": 1.0},
        "sse_sam": {"rho": 0.1, "tail_threshold": 20},
        "focal_sam": {"rho_schedule": "step", "gamma": 0.8, "lam": 0.8},
    },
    losses={"ldam": {"head": "cosine", "drw_start": 160}},
)
