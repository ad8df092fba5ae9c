"""CLIP's weights to disk: folders as Hugging Face saves them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from experiments.models.clip.architecture import Architecture, to_hugging_face
from experiments.models.clip.files import CONFIG, WEIGHTS
from experiments.models.clip.packages import import_package
from experiments.models.clip.tensors import text_tensors, vision_tensors


def write_folder(
    folder: Path, architecture: Architecture, weights: dict[str, Any]
) -> None:
    """``config.json`` and ``model.safetensors`` in a folder that is there.

    Args:
      folder: where to.
      architecture: of the model.
      weights: of both towers, nested dicts.
    """
    import_package("safetensors")
    from safetensors.numpy import save_file

    flat = flatten_dict(weights)
    arrays = {}
    for tensors in (vision_tensors, text_tensors):
        for tensor in tensors(architecture, "hugging_face"):
            parts = tensor.write(np.asarray(flat[tensor.path]))
            arrays |= dict(zip(tensor.names, parts, strict=True))
    save_file(arrays, folder / WEIGHTS, metadata={"format": "pt"})
    text = json.dumps(to_hugging_face(architecture), indent=2)
    (folder / CONFIG).write_text(text + "\n")
