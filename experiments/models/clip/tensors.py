"""Names and layouts of CLIP's weights, here and in Hugging Face's files.

The files have separate matrices for queries, keys and values; this package has one for
all three.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from experiments.models.clip.architecture import Architecture, Transformer

# How an array in a file becomes ours: unchanged, transposed, or from a convolution.
Layout = Literal["same", "transposed", "patches"]


class Tensor(NamedTuple):
    """One of our arrays, and its parts in a file.

    Attributes:
      path: path in our nested dicts, such as ``("vision", "block0", "qkv", "kernel")``.
      names: names of the arrays in the file; ours concatenates them.
      layout: layout of each of them.
      shape: shape of each of them in the file.
    """

    path: tuple[str, ...]
    names: tuple[str, ...]
    layout: Layout
    shape: tuple[int, ...]

    def read(self, arrays: list[np.ndarray]) -> np.ndarray:
        """Converts the arrays of a file to ours."""
        ours = [_read(array, self.layout) for array in arrays]
        return np.concatenate(ours, axis=-1) if len(ours) > 1 else ours[0]

    def write(self, ours: np.ndarray) -> list[np.ndarray]:
        """Converts our array to those of a file."""
        parts = np.split(ours, len(self.names), axis=-1) if ours.ndim else [ours]
        return [_write(part, self.layout, self.shape) for part in parts]


def vision_tensors(architecture: Architecture) -> Iterator[Tensor]:
    """Yields all arrays of the image tower and its projection."""
    sizes, embedding = architecture.vision, architecture.embedding
    width, patch = sizes.transformer.width, sizes.patch_size
    of_embeddings = "vision_model.embeddings."
    yield Tensor(
        ("vision", "class_embedding"),
        (f"{of_embeddings}class_embedding",),
        "same",
        (width,),
    )
    yield Tensor(
        ("vision", "patch", "kernel"),
        (f"{of_embeddings}patch_embedding.weight",),
        "patches",
        (width, sizes.channels, patch, patch),
    )
    yield Tensor(
        ("vision", "position"),
        (f"{of_embeddings}position_embedding.weight",),
        "same",
        (sizes.tokens, width),
    )
    # Hugging Face spells it so.
    yield from _layer_norm(("vision", "ln_pre"), "vision_model.pre_layrnorm", width)
    yield from _layer_norm(("vision", "ln_post"), "vision_model.post_layernorm", width)
    yield from _blocks("vision", sizes.transformer)
    yield _projection("vision_projection", "visual_projection", width, embedding)


def text_tensors(architecture: Architecture) -> Iterator[Tensor]:
    """Yields all arrays of the text tower, its projection, and the cosines' scale."""
    sizes, embedding = architecture.text, architecture.embedding
    width = sizes.transformer.width
    for path, name, rows in (
        ("token_embedding", "token_embedding", sizes.vocabulary),
        ("position", "position_embedding", sizes.context),
    ):
        name = f"text_model.embeddings.{name}.weight"
        yield Tensor(("text", path), (name,), "same", (rows, width))
    yield from _layer_norm(("text", "ln_final"), "text_model.final_layer_norm", width)
    yield from _blocks("text", sizes.transformer)
    yield _projection("text_projection", "text_projection", width, embedding)
    yield Tensor(("logit_scale",), ("logit_scale",), "same", ())


def _blocks(tower: str, sizes: Transformer):
    width, hidden = sizes.width, sizes.hidden
    for i in range(sizes.layers):
        ours, block = (tower, f"block{i}"), f"{tower}_model.encoder.layers.{i}."
        yield from _layer_norm((*ours, "ln_1"), f"{block}layer_norm1", width)
        yield from _layer_norm((*ours, "ln_2"), f"{block}layer_norm2", width)
        attention = f"{block}self_attn."
        qkv = [f"{attention}{part}_proj." for part in "qkv"]
        yield from _dense((*ours, "qkv"), qkv, width, width)
        yield from _dense((*ours, "out"), [f"{attention}out_proj."], width, width)
        yield from _dense((*ours, "fc1"), [f"{block}mlp.fc1."], width, hidden)
        yield from _dense((*ours, "fc2"), [f"{block}mlp.fc2."], hidden, width)


def _layer_norm(path, name, width):
    yield Tensor((*path, "scale"), (f"{name}.weight",), "same", (width,))
    yield Tensor((*path, "bias"), (f"{name}.bias",), "same", (width,))


def _dense(path, names, inputs, outputs):
    weights, biases = (tuple(n + end for n in names) for end in ("weight", "bias"))
    yield Tensor((*path, "kernel"), weights, "transposed", (outputs, inputs))
    yield Tensor((*path, "bias"), biases, "same", (outputs,))


def _projection(path, name, width, embedding):
    names, shape = (f"{name}.weight",), (embedding, width)
    return Tensor((path, "kernel"), names, "transposed", shape)


def _read(array, layout):
    match layout:
        case "transposed":
            return array.T
        case "patches":
            return array.transpose(2, 3, 1, 0).reshape(-1, array.shape[0])
    return array


def _write(array, layout, shape):
    match layout:
        case "transposed":
            array = array.T
        case "patches":
            width, channels, patch, _ = shape
            array = array.reshape(patch, patch, channels, width).transpose(3, 2, 0, 1)
    return np.array(array, order="C")
