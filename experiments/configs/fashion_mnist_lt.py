"""Fashion-MNIST-LT at imbalance factor 100: real images that need no account.

    python -m experiments.train --config fashion_mnist_lt --data-dir DIR

14,886 of the 60,000 training images of Fashion-MNIST, 6000 3596 2156 1292 774 464 278
166 100 60 per class, and its 10,000 balanced test images, 28x28 and grey; a ResNet-32
as in `cifar10_lt`. `DIR/fashion_mnist` holds the four IDX files of Debian's package
`dataset-fashion-mnist`; or run `python -m experiments.prepare fashion_mnist --data-dir
DIR`. `--imbalance-factor` 10 and 50 are usual too. `--loss` takes ce, focal, ldam (with
deferred re-weighting and a cosine head), vs and la.

Cost: 200 epochs of 232 steps. A Focal-SAM step takes about 0.8 s on two CPU cores, so
use a GPU or TPU; two cores can train `fashion_mnist_lt_small`.

Expected: not run, and no published table has these methods on Fashion-MNIST-LT.

Sources. The data: Xiao et al., arXiv 1708.07747. All values: `cifar10_lt`.
"""

from dataclasses import replace

from experiments.configs import cifar10_lt

RECIPE = replace(
    cifar10_lt.RECIPE,
    base=cifar10_lt.RECIPE.base.replace(
        config="fashion_mnist_lt", data="fashion_mnist", image_size=28
    ),
)
