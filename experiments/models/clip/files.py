"""CLIP's weights on disk or on the hub, as folders and safetensors files."""

import json
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
from experiments.models.clip.packages import import_package
from experiments.models.clip.tensors import Kind, Tensor, text_tensors, vision_tensors

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
_RANDOM = "random:"


class Clip:
    """A CLIP model whose weights are read when they are wanted.

    Attributes:
      architecture: its sizes.
      folder: where its files are, or ``None`` if its weights are to be drawn.
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
          folder: of the model.
          kind: whose names the arrays have.
          files: the file that every array is in, by the array's name there.
        """
        self.architecture, self.folder = architecture, folder
        self._kind: Kind = kind
        self._files = files or {}

    def vision(self) -> dict[str, Any] | None:
        """``vision`` and ``vision_projection``, float32; ``None`` if they are random.

        Raises:
          UserError: if an array is missing or has another shape.
        """
        return self._weights(vision_tensors)

    def text(self) -> dict[str, Any] | None:
        """``text``, ``text_projection`` and ``logit_scale``, likewise."""
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
                f"{shape}: both towers and their projections must be there."
            )
        if path not in opened:
            opened[path] = open_safetensors(path)
        array = np.asarray(opened[path].get_tensor(name)).astype(np.float32)
        if array.shape != shape:
            raise UserError(
                f"{name} in {path} has shape {array.shape} where {CONFIG} or the other "
                f"arrays want {shape}: they must be of one model."
            )
        return array


def open_clip(where: str) -> Clip:
    """The CLIP model that ``--weights`` names.

    Args:
      where: a folder as Hugging Face saves it, with ``config.json`` and one or several
        safetensors files; a safetensors file with OpenAI's names, or a folder with it;
        a name on the hub, such as ``openai/clip-vit-large-patch14``; or ``random:`` and
        one of the names in :data:`ARCHITECTURES`, for weights to be drawn.

    Raises:
      UserError: if there is no such model, or it cannot be read or fetched.
    """
    if where.startswith(_RANDOM):
        name = where.removeprefix(_RANDOM)
        if name not in ARCHITECTURES:
            raise UserError(
                f"--weights {where}: after {_RANDOM} comes one of "
                f"{', '.join(ARCHITECTURES)}."
            )
        return Clip(ARCHITECTURES[name])
    path = Path(where).expanduser()
    if not path.exists():
        path = _fetch(where)
    folder = path if path.is_dir() else path.parent
    files = {
        name: file for file in _files(path) for name in open_safetensors(file).keys()
    }
    if "visual.proj" in files:
        shapes = {
            name: tuple(open_safetensors(f).get_slice(name).get_shape())
            for name, f in files.items()
        }
        return Clip(_from_openai(shapes), folder, "openai", files)
    config = _json(folder / CONFIG)
    if config.get("model_type", "clip") != "clip":
        raise UserError(
            f"{folder / CONFIG} is of a model of type {config['model_type']!r}, and "
            "--weights takes a CLIP model."
        )
    return Clip(from_hugging_face(config), folder, "hugging_face", files)


def _files(path: Path) -> list[Path]:
    """The safetensors files of a model."""
    if path.is_file():
        return [path]
    if (path / INDEX).exists():
        shards = sorted(set(_json(path / INDEX).get("weight_map", {}).values()))
        return [path / shard for shard in shards]
    if (path / WEIGHTS).exists():
        return [path / WEIGHTS]
    found = sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return found
    raise UserError(
        f"--weights {path} has no {WEIGHTS}: weights in another format are turned into "
        "it by transformers, CLIPModel.from_pretrained(...).save_pretrained(FOLDER)."
    )


def open_safetensors(path: Path):
    """The file, opened; its arrays are read when they are asked for."""
    try:
        # Flax's flavour, because NumPy's cannot read bfloat16.
        return import_package("safetensors").safe_open(path, framework="flax")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: copy all files of the model.") from None
    except Exception as error:  # A class of its own, which safetensors keeps private.
        raise UserError(
            f"{path} cannot be read as safetensors ({error}): is it whole?"
        ) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: a CLIP model has it beside its weights."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} must hold a JSON object.")
    return found


def _fetch(name: str) -> Path:
    """The folder of a model on the hub, which is kept in the hub's cache."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(
            f"--weights {name}: there is no such folder or file, and a name on the hub "
            "looks like openai/clip-vit-large-patch14."
        )
    hub = import_package("huggingface_hub")
    try:
        files = [CONFIG, TOKENIZER, "*.safetensors", INDEX]
        return Path(hub.snapshot_download(name, allow_patterns=files))
    except Exception as error:  # Requests, the hub and the disk raise all kinds.
        raise UserError(
            f"--weights {name} is no folder here and cannot be fetched from the hub "
            f"({type(error).__name__}): without a network, copy the model's folder to "
            "this machine and name that."
        ) from error


def _from_openai(shapes: dict[str, tuple[int, ...]]) -> Architecture:
    """The architecture, from the shapes of the arrays; heads are 64 wide."""

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
