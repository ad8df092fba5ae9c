"""CIFAR-10-LT at imbalance factor 50.

    python -m experiments.train --config cifar10_lt_if50 --method focal_sam

13,996 training images (5000 to 100 a class). Everything but the tail is as in
`cifar10_lt`, whose values were published for imbalance factor 100; ImbSAM's tail are
the few-shot classes of this factor.

Cost: 200 epochs of 218 steps; see `cifar10_lt`.

Expected: Focal-SAM 82.0 % overall, as quoted in public lists of results, probably with
cross-entropy (`--loss ce`); the published code names no number for this factor.
"""

from experiments.configs import cifar10_lt

RECIPE = cifar10_lt.RECIPE.with_factor("cifar10_lt_if50", 50.0, tail_threshold=200)
