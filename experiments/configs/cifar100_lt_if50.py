"""CIFAR-100-LT at imbalance factor 50.

    python -m experiments.train --config cifar100_lt_if50 --method focal_sam

12,608 training images (500 to 10 a class). Everything but the tail is as in
`cifar100_lt`, whose values were published for imbalance factor 100; ImbSAM's tail are
the few-shot classes of this factor.

Cost: 200 epochs of 197 steps; see `cifar100_lt`.

Expected: Focal-SAM 48.1 % overall, as quoted in public lists of results, probably with
cross-entropy (`--loss ce`); the published code names no number for this factor.
"""

from experiments.configs import cifar100_lt

RECIPE = cifar100_lt.RECIPE.with_factor("cifar100_lt_if50", 50.0, tail_threshold=20)
