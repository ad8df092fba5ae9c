"""Export of CLIP's weights: whole models in Hugging Face's format, or parts."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from experiments.models.clip.architecture import Architecture, to_hugging_face
from experiments.models.clip.tensors import text_tensors, vision_tensors
from experiments.models.weight_files import CONFIG, WEIGHTS, save_safetensors


def write_folder(
    folder: Path, architecture: Architecture, weights: dict[str, Any]
) -> None:
    """Writes ``config.json`` and ``model.safetensors`` to a folder.

    Args:
      folder: an existing folder.
      architecture: sizes of the model.
      weights: weights of both towers, nested dicts.
    """
    flat = flatten_dict(weights)
    arrays = {}
    for tensors in (vision_tensors, text_tensors):
        for tensor in tensors(architecture):
            parts = tensor.write(np.asarray(flat[tensor.path]))
            arrays |= dict(zip(tensor.names, parts, strict=True))
    # The format tells transformers how to read the file, not its origin.
    save_safetensors(folder / WEIGHTS, arrays, {"format": "pt"})
    text = json.dumps(to_hugging_face(architecture), indent=2)
    (folder / CONFIG).write_text(text + "\n")


def write_tree(path: Path, tree: dict[str, Any], about: dict[str, Any]) -> None:
    """Writes nested dicts of arrays as safetensors, with keys joined by dots.

    Args:
      path: path of the file.
      tree: the arrays.
      about: metadata, written as JSON.
    """
    arrays = flatten_dict(tree, sep=".")
    about = {name: json.dumps(value) for name, value in about.items()}
    save_safetensors(path, arrays, about)
