"""Networks, each two pure functions over plain trees. The only room that knows Flax."""

from experiments.models.clip.classifier import image_features as image_features
from experiments.models.clip.classifier import zero_shot_clip as zero_shot_clip
from experiments.models.clip.columns import class_embeddings as class_embeddings
from experiments.models.clip.columns import text_columns as text_columns
from experiments.models.clip.export import write_folder as write_folder
from experiments.models.clip.export import write_tree as write_tree
from experiments.models.clip.files import open_clip as open_clip
from experiments.models.clip.merge import check_mergeable as check_mergeable
from experiments.models.clip.merge import merged as merged
from experiments.models.clip.tuners import bottleneck as bottleneck
from experiments.models.convert import from_pytorch as from_pytorch
from experiments.models.functional import Model as Model
from experiments.models.heads import unit as unit
from experiments.models.make import fitting_clip as fitting_clip
from experiments.models.make import make_model as make_model
from experiments.models.make import vision_sizes as vision_sizes
from experiments.models.resnet import resnet_cifar as resnet_cifar
from experiments.models.resnet import resnet_digits as resnet_digits
from experiments.models.resnet_imagenet import resnet50 as resnet50
from experiments.models.resnet_imagenet import resnext50_32x4d as resnext50_32x4d
