"""CIFAR-10-LT at imbalance factor 10.

    python -m experiments.train --config cifar10_lt_if10 --method focal_sam

20,431 training images (5000 to 500 a class). Everything but the tail is as in
`cifar10_lt`, whose values were published for imbalance factor 100; ImbSAM's tail are
the few-shot classes of this factor.

Cost: 200 epochs of 319 steps; see `cifar10_lt`.

Expected: no published number is known to us for this factor.
"""

from experiments.configs import cifar10_lt

RECIPE = cifar10_lt.RECIPE.with_factor("cifar10_lt_if10", 10.0, tail_threshold=835)
