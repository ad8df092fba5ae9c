"""CIFAR-10-LT at imbalance factor 200.

    python -m experiments.train --config cifar10_lt_if200 --method focal_sam

11,203 training images (5000 to 25 a class). Everything but the tail is as in
`cifar10_lt`, whose values were published for imbalance factor 100; ImbSAM's tail are
the few-shot classes of this factor.

Cost: 200 epochs of 175 steps; see `cifar10_lt`.

Expected: Focal-SAM 71.7 % overall, as quoted in public lists of results, probably with
cross-entropy (`--loss ce`); the published code names no number for this factor.
"""

from experiments.configs import cifar10_lt

RECIPE = cifar10_lt.RECIPE.with_factor("cifar10_lt_if200", 200.0, tail_threshold=100)
