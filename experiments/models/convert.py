"""Conversion of ResNet weights between PyTorch and this folder's networks."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments.errors import UserError
from experiments.models.functional import Model

HEADS = ("fc", "linear")
_MODULES = {
    "conv": "conv1",
    "bn": "bn1",
    "shortcut_conv": "downsample.0",
    "shortcut_bn": "downsample.1",
}
_TENSORS = {
    "kernel": "weight",
    "columns": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# From PyTorch's order of axes to ours, by our name and rank. Other arrays, the columns
# of the cosine head among them, have the same order in both.
_AXES = {("kernel", 4): (2, 3, 1, 0), ("kernel", 2): (1, 0)}


def from_pytorch(
    state_dict: Mapping[str, np.ndarray], model: Model, *, with_head: bool = True
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Converts a PyTorch ``state_dict`` to parameters and BatchNorm statistics.

    Its names are those of torchvision and timm: ``conv1.weight``, ``bn1.running_mean``,
    ``layer1.0.conv1.weight``, ``layer1.0.downsample.0.weight``, and ``fc.weight`` or
    ``linear.weight`` for the last layer. CIFAR ResNets of long-tailed recognition use
    these names too.

    Args:
      state_dict: the arrays by name, of any floating dtype.
      model: the network, with the same shapes.
      with_head: whether to convert the last layer; otherwise it is left out.

    Returns:
      ``(params, batch_stats)``, nested as by ``model.init``. The arrays are NumPy
      copies with unchanged dtypes.

    Raises:
      UserError: if an array is missing, has another shape or is not in the network.
    """
    head = "linear" if "linear.weight" in state_dict else "fc"
    used = set() if with_head else {name for name in state_dict if is_of_head(name)}

    def take(path, wanted):
        full_name, order = _tensor(path, len(wanted.shape), head)
        shape = tuple(wanted.shape[axis] for axis in np.argsort(order))
        if full_name not in state_dict:
            raise UserError(
                f"the PyTorch weights have no {full_name}, of shape {shape}: the "
                "network must be the one they were saved from."
            )
        array = np.asarray(state_dict[full_name])
        if array.shape != shape:
            raise UserError(
                f"{full_name} of the PyTorch weights has shape {array.shape}, but the "
                f"network needs {shape}: depth, classes and head must be those of the "
                "saved network."
            )
        used.add(full_name)
        return np.array(array.transpose(order), order="C")

    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0))
    if not with_head:
        params = {name: part for name, part in params.items() if name != "head"}
    params, batch_stats = (
        jax.tree.map_with_path(take, tree) for tree in (params, batch_stats)
    )
    for full_name in state_dict:
        # PyTorch counts the batches of BatchNorm; nothing depends on the count.
        if full_name not in used and not full_name.endswith("num_batches_tracked"):
            raise UserError(
                f"the network has no array for {full_name} of the PyTorch weights: it "
                "must be the one they were saved from."
            )
    return params, batch_stats


def to_pytorch(
    params: Mapping[str, Any], batch_stats: Mapping[str, Any], head: str
) -> dict[str, np.ndarray]:
    """Makes a PyTorch ``state_dict``; the inverse of :func:`from_pytorch`.

    Args:
      params: parameters of a ResNet, nested dicts of arrays.
      batch_stats: its BatchNorm statistics.
      head: PyTorch's name of the last layer, one of :data:`HEADS`.
    """
    arrays = {}
    for path, leaf in jax.tree.leaves_with_path((params, batch_stats)):
        full_name, order = _tensor(path[1:], np.ndim(leaf), head)
        arrays[full_name] = np.array(np.transpose(leaf, np.argsort(order)), order="C")
    return arrays


def head_shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """Returns PyTorch's names and shapes of the arrays of the last layer, ``fc``."""
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    zeros = {name: np.empty(leaf.shape) for name, leaf in params["head"].items()}
    arrays = to_pytorch({"head": zeros}, {}, "fc")
    return {name: array.shape for name, array in arrays.items()}


def is_of_head(name: str) -> bool:
    """Returns whether an array of a ``state_dict`` belongs to the last layer."""
    return name.partition(".")[0] in HEADS


def _tensor(path, rank: int, head: str) -> tuple[str, tuple[int, ...]]:
    """Returns PyTorch's name of our array, and PyTorch's axes in our order."""
    *modules, name = (entry.key for entry in path)
    full_name = ".".join([*(_module(m, head) for m in modules), _TENSORS[name]])
    return full_name, _AXES.get((name, rank), tuple(range(rank)))


def _module(name: str, head: str) -> str:
    """Returns PyTorch's name of our module ``name``."""
    if block := re.fullmatch(r"stage(\d+)_block(\d+)", name):
        return f"layer{int(block[1]) + 1}.{block[2]}"
    return head if name == "head" else _MODULES.get(name, name)
