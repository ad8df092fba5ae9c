"""CIFAR-100-LT at imbalance factor 100: CLIP ViT-B/16 with AdaptFormer.

    python -m experiments.train --config clip_cifar100_lt --weights FOLDER

10,847 training images, enlarged to 224 pixels on the device. AdaptFormer's 101,436
parameters and the 76,800 of a cosine head are trained; the rest of CLIP is frozen. The
head starts from the prompts "a photo of a ...".

Cost: 20 epochs of 84 steps. A forward pass of 128 images takes 4.5 TFLOP; Focal-SAM
makes two, and slightly less than two backward passes. Use a GPU or TPU.

Expected: no number is stated in the published code.

Sources. Focal-SAM's values, batch size, learning rate, weight decay and epochs: the
published command, which computes in float16 without a guard; this recipe uses bfloat16.
Radii of SAM and ImbSAM: that of Focal-SAM. Radii of CC-SAM and SSE-SAM: ours. With LDAM
the head does not scale the cosines, because the loss does.
"""

from experiments.configs import cifar100_lt
from experiments.configs.recipe import Recipe

RECIPE = Recipe(
    base=cifar100_lt.RECIPE.base.replace(
        config="clip_cifar100_lt",
        input_size=224,
        augment="resized_crop",
        model="clip",
        tuners=("adaptformer",),
        head="cosine",
        head_scale=25.0,
        head_init="text",
        precision="bfloat16",
        epochs=20,
        batch_size=128,
        learning_rate=0.01,
        milestones=(16,),
        weight_decay=5e-4,
        rho_milestones=(16,),
        rho_values=(0.05, 0.1),
        switch_epoch=14,
        eval_every=1,
        checkpoint_every=1,
    ),
    methods={
        "sgd": {},
        "sam": {"rho": 0.05},
        "imbsam": {"rho": 0.05, "tail_threshold": 20},
        "cc_sam": {"rho": 0.05, "alpha": 1.0},
        "sse_sam": {"rho": 0.05, "head_rho": 0.025, "tail_threshold": 20},
        "focal_sam": {"rho": 0.05, "gamma": 5.5, "lam": 0.8},
    },
    losses={"ldam": {"head_scale": 1.0, "drw_start": 16}},
)
