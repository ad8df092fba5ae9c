"""Workloads: a network and a method, on a batch of random images."""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from experiments.config import Config
from experiments.configs import get_config
from experiments.data.longtail import exponential_counts

# CC-SAM perturbs the whole network; cc_sam_head, as published, only the last layer.
# focal_sam shares a backward pass in networks without cross-example layers;
# focal_sam_unshared does not.
_InAllFrameworks = Literal[
    "sgd", "sam", "imbsam", "cc_sam_head", "cc_sam", "sse_sam", "focal_sam"
]
Method = Literal[_InAllFrameworks, "focal_sam_unshared"]
METHODS: tuple[Method, ...] = get_args(_InAllFrameworks)
Network = Literal[
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet50",
    "vit_digits",
    "vit_b16",
    "vit_b16_adaptformer",
]
Precision = Literal["float32", "bfloat16"]
_CLIP = {"model": "clip", "weights": "random:ViT-B/16", "image_size": 224}
_CHANGES: dict[str, dict[str, Any]] = {
    "resnet20": {"model": "resnet20", "image_size": 32},
    "resnet32": {"model": "resnet32", "image_size": 32},
    "resnet44": {"model": "resnet44", "image_size": 32},
    "resnet56": {"model": "resnet56", "image_size": 32},
    "resnet50": {"model": "resnet50", "image_size": 224},
    "vit_digits": {"model": "vit_digits", "image_size": 8},
    "vit_b16": _CLIP | {"tuners": ("full",)},
    "vit_b16_adaptformer": _CLIP | {"tuners": ("adaptformer",)},
}


class Workload(NamedTuple):
    """A training step, in any framework.

    Attributes:
      model: the network.
      batch_size: examples per step.
      dtype: dtype of the computation; weights are in float32.
      num_classes: number of classes, which have 500 to 5 examples.
    """

    model: Network
    batch_size: int
    dtype: Precision
    num_classes: int = 10

    @property
    def class_counts(self) -> np.ndarray:
        """Training examples of each class, int, ``(num_classes,)``."""
        return exponential_counts(self.num_classes, 500, 100.0)

    def config(self, method: Method = "focal_sam") -> Config:
        """Returns CIFAR-100-LT's configuration with the changes of this workload."""
        known = method.removesuffix("_head").removesuffix("_unshared")
        recipe = get_config("cifar100_lt", known)
        return recipe.replace(
            perturbed="head" if method == "cc_sam_head" else "all",
            batch_size=self.batch_size,
            precision=self.dtype,
            augment="none",
            **_CHANGES[self.model],
        )

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return 1 if self.model == "vit_digits" else 3

    def batch(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns float32 images ``(batch, size, size, channels)`` and int32 labels."""
        rng = np.random.default_rng(0)
        size = self.config().network_size
        shape = (self.batch_size, size, size, self.channels)
        images = rng.standard_normal(shape, dtype=np.float32)
        frequency = self.class_counts / self.class_counts.sum()
        labels = rng.choice(self.num_classes, self.batch_size, p=frequency)
        return images, labels.astype(np.int32)


def step_name(framework: str, workload: Workload, method: Method) -> dict[str, Any]:
    """Returns the fields of a row that identify a step."""
    return {
        "framework": framework,
        "model": workload.model,
        "method": method,
        "batch_size": workload.batch_size,
        "dtype": workload.dtype,
    }
