"""CIFAR-10-LT at imbalance factor 100: ResNet-32, as in the Focal-SAM paper.

    python -m experiments.train --config cifar10_lt --method focal_sam

12,406 training images (5000 to 50 per class), 10,000 balanced test images. `--loss`
takes ce, focal, ldam (with deferred re-weighting and a cosine head), vs and la.

Cost: 200 epochs of 193 steps. A Focal-SAM step takes about 1 s on two CPU cores, so use
a GPU or TPU; on a CPU pass a small `--epochs`.

Expected: Focal-SAM about 83 % overall, read from a figure of the published code that
does not state its loss; it varies between seeds by about half a percent. The published
recipe evaluates on the test set in every epoch and reports the best epoch. This recipe
reports the last epoch and, with `--held-out`, the best on the held-out images.

Other factors: `cifar10_lt_if10`, `_if20`, `_if50` and `_if200` differ only in the tail,
though the values were published for factor 100. Images (of the rarest class), steps per
epoch, and the numbers in public lists of results for Focal-SAM, probably with
cross-entropy (`--loss ce`):

    _if10    20,431 (500)    319 steps
    _if20    17,023 (250)    265 steps
    _if50    13,996 (100)    218 steps    82.0 % overall
    _if200   11,203 (25)     175 steps    71.7 % overall

Sources. Focal-SAM's values, batch size, learning rate and weight decay: the published
command. SAM's radius: Rangwani et al., NeurIPS 2022, for cross-entropy. Radius of
ImbSAM: its published code; its tail here is the few-shot classes. Radii and switch of
SSE-SAM: its published command for CIFAR-100-LT; its tail is ImbSAM's. Radius of CC-SAM:
ours, because the published code perturbs only the last layer.
"""

from experiments.config import Config
from experiments.configs.recipe import Recipe

RECIPE = Recipe(
    base=Config(
        config="cifar10_lt",
        data="cifar10",
        image_size=32,
        imbalance_factor=100.0,
        augment="crop_flip",
        model="resnet32",
        epochs=200,
        batch_size=64,
        learning_rate=0.1,
        milestones=(160, 180),
        decay=0.01,
        weight_decay=2e-4,
        rho_start=0.05,
        rho_milestones=(5, 160, 180),
        rho_values=(0.05, 0.1, 0.5, 0.6),
        switch_epoch=140,
        eval_every=5,
        checkpoint_every=10,
    ),
    methods={
        "sgd": {},
        "sam": {"rho": 0.1},
        "imbsam": {"rho": 0.05, "tail_threshold": 200},
        "cc_sam": {"rho": 0.05, "alpha": 1.0},
        "sse_sam": {"rho": 0.1, "tail_threshold": 200},
        "focal_sam": {"rho": 0.2, "gamma": 3.0, "lam": 0.5},
    },
    losses={"ldam": {"head": "cosine", "drw_start": 160}},
)

OTHER_FACTORS = [RECIPE.with_factor(factor) for factor in (10, 20, 50, 200)]
