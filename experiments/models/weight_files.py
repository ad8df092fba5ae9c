"""Weights in safetensors files, on disk or on the hub."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from experiments.errors import UserError, import_package

CONFIG, WEIGHTS = "config.json", "model.safetensors"
TOKENIZER = "tokenizer.json"
_SAFETENSORS = ("safetensors", "Reading or writing weights", "clip")
_INDEX = "model.safetensors.index.json"
# Formats of PyTorch, whose files can run code when they are read.
_PICKLED = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")


def weight_files(where: str, option: str, from_others: str) -> tuple[Path, list[Path]]:
    """Returns the folder of some weights, and their safetensors files.

    Args:
      where: a folder in Hugging Face's format, a file, or a name on the hub.
      option: name of the command-line option, for messages.
      from_others: how to convert other formats to safetensors, for messages.

    Raises:
      UserError: if there are no weights, or they cannot be fetched.
    """
    path = Path(where).expanduser()
    if not path.exists():
        path = _fetch(where, option)
    if path.is_dir():
        return path, _files(path, option, from_others)
    if path.suffix in _PICKLED:
        raise UserError(f"{option} takes safetensors, got {path}: {from_others}.")
    return path.parent, [path]


def open_safetensors(path: Path):
    """Opens a file; each of its arrays is read on request."""
    safetensors = import_package(*_SAFETENSORS)
    try:
        # "flax", because "numpy" cannot read bfloat16.
        return safetensors.safe_open(path, framework="flax")
    except FileNotFoundError:
        raise UserError(f"{path} is missing: copy all files of the model.") from None
    except Exception as error:  # The error class of safetensors is private.
        raise UserError(
            f"{path} cannot be read as safetensors ({error}): it may be incomplete, "
            "copy it again."
        ) from error


def shapes_in(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every array in the files, by name."""
    opened = map(open_safetensors, files)
    return {
        name: tuple(file.get_slice(name).get_shape())
        for file in opened
        for name in file.keys()
    }


def save_safetensors(
    path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    """Writes arrays by name, and metadata, to a file."""
    import_package(*_SAFETENSORS)
    from safetensors.numpy import save

    # safetensors writes only C-contiguous arrays correctly.
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    # Its save_file makes files that only their owner can read.
    path.write_bytes(save(arrays, metadata=metadata))


def read_json(path: Path) -> dict[str, Any]:
    """Reads the JSON object in a file beside weights."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: copy it to the folder of the weights."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}.") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} must contain a JSON object.")
    return found


def _files(folder: Path, option: str, from_others: str) -> list[Path]:
    if (folder / _INDEX).exists():
        shards = read_json(folder / _INDEX).get("weight_map", {}).values()
        return [folder / shard for shard in sorted(set(shards))]
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found
    raise UserError(f"{option} {folder} has no {WEIGHTS}: {from_others}.")


def _fetch(name: str, option: str) -> Path:
    """Downloads a model to the hub's cache, and returns its folder."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(
            f"{option} {name}: no such folder or file exists, and a name on the hub "
            "needs an owner, as in timm/resnet50.a1_in1k."
        )
    hub = import_package("huggingface_hub", "Fetching weights", "clip")
    try:
        files = [CONFIG, TOKENIZER, "*.safetensors", _INDEX]
        return Path(hub.snapshot_download(name, allow_patterns=files))
    except Exception as error:  # Network, hub and disk errors have many types.
        raise UserError(
            f"{option} {name} is not a local folder and cannot be fetched from the hub "
            f"({type(error).__name__}): without a network, copy the model's folder to "
            "this machine and pass its path."
        ) from error
