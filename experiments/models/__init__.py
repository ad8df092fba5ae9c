"""Networks, each two pure functions over plain trees. The only room that knows Flax."""

from experiments.models.convert import from_pytorch as from_pytorch
from experiments.models.functional import Model as Model
from experiments.models.make import make_model as make_model
from experiments.models.resnet import resnet_cifar as resnet_cifar
from experiments.models.resnet import resnet_digits as resnet_digits
from experiments.models.resnet_imagenet import resnet50 as resnet50
from experiments.models.resnet_imagenet import resnext50_32x4d as resnext50_32x4d
