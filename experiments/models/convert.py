"""Weights of PyTorch networks, for the networks of this folder."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from experiments.errors import UserError
from experiments.models.functional import Model

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
# From PyTorch's order of axes to ours, by our name and rank. The columns of the cosine
# head, like all vectors, have the same order in both.
_AXES = {("kernel", 4): (2, 3, 1, 0), ("kernel", 2): (1, 0)}


def from_pytorch(
    state_dict: Mapping[str, np.ndarray], model: Model
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and BatchNorm statistics of ``model`` from a PyTorch ``state_dict``.

    Its names are those of torchvision: ``conv1.weight``, ``bn1.running_mean``,
    ``layer1.0.conv1.weight``, ``layer1.0.downsample.0.weight``, and ``fc.weight`` or
    ``linear.weight`` for the last layer. The CIFAR ResNets of long-tailed recognition
    go by them too.

    Args:
      state_dict: the arrays by name, of any floating dtype.
      model: the network, of the same shape.

    Returns:
      ``(params, batch_stats)`` as ``model.init`` nests them, NumPy arrays, copies, of
      the dtype they came in.

    Raises:
      UserError: if an array is missing, has another shape or belongs nowhere.
    """
    head = "linear" if "linear.weight" in state_dict else "fc"
    used = set()

    def take(path, wanted):
        *modules, name = (entry.key for entry in path)
        full_name = ".".join([*(_module(m, head) for m in modules), _TENSORS[name]])
        order = _AXES.get((name, len(wanted.shape)), range(len(wanted.shape)))
        shape = tuple(wanted.shape[order.index(axis)] for axis in range(len(order)))
        if full_name not in state_dict:
            raise UserError(
                f"the PyTorch weights have no {full_name}, of shape {shape}: the "
                "network must be the one they were saved from."
            )
        array = np.asarray(state_dict[full_name])
        if array.shape != shape:
            raise UserError(
                f"{full_name} of the PyTorch weights has shape {array.shape} where the "
                f"network wants {shape}: depth, classes and head must be those they "
                "were saved from."
            )
        used.add(full_name)
        return np.array(array.transpose(order), order="C")

    wanted = jax.eval_shape(model.init, jax.random.key(0))
    params, batch_stats = (jax.tree.map_with_path(take, tree) for tree in wanted)
    for full_name in state_dict:
        # PyTorch counts the batches that BatchNorm saw, which nothing depends on.
        if full_name not in used and not full_name.endswith("num_batches_tracked"):
            raise UserError(
                f"the network has no place for {full_name} of the PyTorch weights: it "
                "must be the one they were saved from."
            )
    return params, batch_stats


def _module(name: str, head: str) -> str:
    """PyTorch's name of a module that has ``name`` here."""
    if block := re.fullmatch(r"stage(\d+)_block(\d+)", name):
        return f"layer{int(block[1]) + 1}.{block[2]}"
    return head if name == "head" else _MODULES.get(name, name)
