"""CLIP's weights on disk or on the hub, as folders and safetensors files."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict

from experiments.errors import UserError
from experiments.models.clip.architecture import (
    ARCHITECTURES,
    Architecture,
    Text,
    Transformer,
    Vision,
    from_hugging_face,
)
from experiments.models.clip.tensors import Kind, Tensor, text_tensors, vision_tensors
from experiments.models.weight_files import (
    CONFIG,
    open_safetensors,
    read_json,
    shapes_in,
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
        kind: Kind = "hugging_face",
        files: dict[str, Path] | None = None,
    ):
        """
        Args:
          architecture: its sizes.
          folder: folder of the model.
          kind: naming scheme of the arrays.
          files: the file of every array, by the array's name in it.
        """
        self.architecture, self.folder = architecture, folder
        self._kind: Kind = kind
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
        return self._read(tensors(self.architecture, self._kind))

    def _read(self, tensors: Iterable[Tensor]) -> dict[str, Any]:
        opened = {}
        weights = {}
        for tensor in tensors:
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
        safetensors files; a safetensors file with OpenAI's names, or a folder with it;
        a name on the hub, such as ``openai/clip-vit-large-patch14``; or ``random:`` and
        one of the names in :data:`ARCHITECTURES`, for random weights.

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
        return Clip(_from_openai(shapes_in(paths)), folder, "openai", files)
    config = read_json(folder / CONFIG)
    if config.get("model_type", "clip") != "clip":
        raise UserError(
            f"{folder / CONFIG} describes a model of type {config['model_type']!r}, "
            "but --weights needs a CLIP model."
        )
    return Clip(from_hugging_face(config), folder, "hugging_face", files)


def _from_openai(shapes: dict[str, tuple[int, ...]]) -> Architecture:
    """Derives the architecture from the shapes of the arrays; heads are 64 wide."""

    def stack(prefix: str, width: int) -> Transformer:
        block = re.compile(re.escape(prefix) + r"transformer\.resblocks\.(\d+)\.")
        numbers = {int(found[1]) for name in shapes if (found := block.match(name))}
        return Transformer(width, len(numbers), max(width // 64, 1), 4 * width)

    try:
        width, channels, patch, _ = shapes["visual.conv1.weight"]
        side = round((shapes["visual.positional_embedding"][0] - 1) ** 0.5)
        vocabulary, text_width = shapes["token_embedding.weight"]
        return Architecture(
            Vision(stack("visual.", width), side * patch, patch, channels),
            Text(stack("", text_width), vocabulary, shapes["positional_embedding"][0]),
            shapes["visual.proj"][1],
        )
    except KeyError as error:
        raise UserError(
            f"the CLIP weights with OpenAI's names have no array {error.args[0]}."
        ) from None
