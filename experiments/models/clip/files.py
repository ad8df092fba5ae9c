"""CLIP's weights on disk or on the hub, as folders and safetensors files."""

from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from experiments.errors import UserError
from experiments.models.clip.architecture import (
    ARCHITECTURES,
    Architecture,
    from_hugging_face,
)
from experiments.models.clip.tensors import text_tensors, vision_tensors
from experiments.models.weight_files import (
    CONFIG,
    open_safetensors,
    read_json,
    weight_files,
)

_RANDOM = "random:"
_FROM_OTHERS = (
    "convert weights in another format with transformers, "
    "CLIPModel.from_pretrained(...).save_pretrained(FOLDER)"
)


class Clip:
    """A CLIP model whose weights are read on request.

    Attributes:
      architecture: its sizes.
      folder: folder of its files, or ``None`` if its weights are random.
    """

    def __init__(
        self,
        architecture: Architecture,
        folder: Path | None = None,
        files: dict[str, Path] | None = None,
    ):
        """
        Args:
          architecture: its sizes.
          folder: folder of the model.
          files: the file of every array, by the array's name in it.
        """
        self.architecture, self.folder = architecture, folder
        self._files = files or {}

    def vision(self) -> dict[str, Any] | None:
        """Returns ``vision`` and ``vision_projection``, float32; ``None`` if random.

        Raises:
          UserError: if an array is missing or has another shape.
        """
        return self._weights(vision_tensors)

    def text(self) -> dict[str, Any] | None:
        """Returns ``text``, ``text_projection`` and ``logit_scale``, likewise."""
        return self._weights(text_tensors)

    def _weights(self, tensors):
        if self.folder is None:
            return None
        opened, weights = {}, {}
        for tensor in tensors(self.architecture):
            arrays = [self._array(name, tensor.shape, opened) for name in tensor.names]
            weights[tensor.path] = tensor.read(arrays)
        return unflatten_dict(weights)

    def _array(self, name, shape, opened):
        path = self._files.get(name)
        if path is None:
            raise UserError(
                f"the CLIP weights in {self.folder} have no array {name}, of shape "
                f"{shape}: both towers and their projections are needed."
            )
        if path not in opened:
            opened[path] = open_safetensors(path)
        array = np.asarray(opened[path].get_tensor(name)).astype(np.float32)
        if array.shape != shape:
            raise UserError(
                f"{name} in {path} has shape {array.shape}, but {CONFIG} or the other "
                f"arrays need {shape}: all must be of the same model."
            )
        return array


def open_clip(where: str) -> Clip:
    """Opens the CLIP model that ``--weights`` names.

    Args:
      where: a folder in Hugging Face's format, with ``config.json`` and one or several
        safetensors files; a name on the hub, such as ``openai/clip-vit-large-patch14``;
        or ``random:`` and one of the names in :data:`ARCHITECTURES`, for random
        weights.

    Raises:
      UserError: if there is no such model, or it cannot be read or fetched.
    """
    if where.startswith(_RANDOM):
        name = where.removeprefix(_RANDOM)
        if name not in ARCHITECTURES:
            raise UserError(
                f"--weights {where}: after {_RANDOM} expected one of "
                f"{', '.join(ARCHITECTURES)}."
            )
        return Clip(ARCHITECTURES[name])
    folder, paths = weight_files(where, "--weights", _FROM_OTHERS)
    files = {name: path for path in paths for name in open_safetensors(path).keys()}
    if "visual.proj" in files:
        raise UserError(
            f"the CLIP weights in {folder} have the names of OpenAI and OpenCLIP, "
            "which do not tell the architecture: pass the model in Hugging Face's "
            "format, such as openai/clip-vit-base-patch16."
        )
    config = read_json(folder / CONFIG)
    if config.get("model_type", "clip") != "clip":
        raise UserError(
            f"{folder / CONFIG} describes a model of type {config['model_type']!r}, "
            "but --weights needs a CLIP model."
        )
    return Clip(from_hugging_face(config), folder, files)
