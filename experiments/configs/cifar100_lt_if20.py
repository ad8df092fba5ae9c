"""CIFAR-100-LT at imbalance factor 20.

    python -m experiments.train --config cifar100_lt_if20 --method focal_sam

15,907 training images (500 to 25 a class). Everything but the tail is as in
`cifar100_lt`, whose values were published for imbalance factor 100; ImbSAM's tail are
the few-shot classes of this factor.

Cost: 200 epochs of 248 steps; see `cifar100_lt`.

Expected: no published number is known to us for this factor.
"""

from experiments.configs import cifar100_lt

RECIPE = cifar100_lt.RECIPE.with_factor("cifar100_lt_if20", 20.0, tail_threshold=61)
