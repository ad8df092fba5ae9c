"""Networks, each two pure functions over plain trees. The only room that knows Flax."""

from experiments.models.functional import Model as Model
from experiments.models.resnet import resnet_cifar as resnet_cifar
from experiments.models.resnet import resnet_digits as resnet_digits
