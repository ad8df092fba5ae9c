"""Names and layouts of CLIP's weights, here and in files.

There are two kinds of files. Hugging Face's have separate matrices for queries, keys
and values. OpenAI's have one matrix for all three, as this package does.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from experiments.models.clip.architecture import Architecture, Transformer

Kind = Literal["hugging_face", "openai"]
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


def vision_tensors(architecture: Architecture, kind: Kind) -> Iterator[Tensor]:
    """Yields all arrays of the image tower and its projection."""
    sizes, embedding = architecture.vision, architecture.embedding
    width, patch = sizes.transformer.width, sizes.patch_size
    hugging_face = {
        ("class_embedding",): "embeddings.class_embedding",
        ("patch", "kernel"): "embeddings.patch_embedding.weight",
        ("position",): "embeddings.position_embedding.weight",
        ("ln_pre",): "pre_layrnorm",
        ("ln_post",): "post_layernorm",
    }
    openai = {
        ("class_embedding",): "class_embedding",
        ("patch", "kernel"): "conv1.weight",
        ("position",): "positional_embedding",
        ("ln_pre",): "ln_pre",
        ("ln_post",): "ln_post",
    }
    of_kind = kind == "hugging_face"
    prefix = "vision_model." if of_kind else "visual."
    shapes = {
        ("class_embedding",): (width,),
        ("patch", "kernel"): (width, sizes.channels, patch, patch),
        ("position",): (sizes.tokens, width),
    }
    for path, name in (hugging_face if of_kind else openai).items():
        if path in shapes:
            layout = "patches" if path[0] == "patch" else "same"
            yield Tensor(("vision", *path), (prefix + name,), layout, shapes[path])
        else:
            yield from _layer_norm(("vision", *path), prefix + name, width)
    yield from _blocks("vision", prefix, sizes.transformer, kind)
    path = ("vision_projection", "kernel")
    yield _projection(
        path, "visual_projection.weight", "visual.proj", width, embedding, kind
    )


def text_tensors(architecture: Architecture, kind: Kind) -> Iterator[Tensor]:
    """Yields all arrays of the text tower, its projection, and the cosines' scale."""
    sizes, embedding = architecture.text, architecture.embedding
    width = sizes.transformer.width
    of_kind = kind == "hugging_face"
    prefix = "text_model." if of_kind else ""
    tokens = (
        "embeddings.token_embedding.weight" if of_kind else "token_embedding.weight"
    )
    position = (
        "embeddings.position_embedding.weight" if of_kind else "positional_embedding"
    )
    final = "final_layer_norm" if of_kind else "ln_final"
    shape = (sizes.vocabulary, width)
    yield Tensor(("text", "token_embedding"), (prefix + tokens,), "same", shape)
    shape = (sizes.context, width)
    yield Tensor(("text", "position"), (prefix + position,), "same", shape)
    yield from _layer_norm(("text", "ln_final"), prefix + final, width)
    yield from _blocks("text", prefix, sizes.transformer, kind)
    path = ("text_projection", "kernel")
    name = "text_projection"
    yield _projection(path, f"{name}.weight", name, width, embedding, kind)
    yield Tensor(("logit_scale",), ("logit_scale",), "same", ())


def _blocks(tower: str, prefix: str, sizes: Transformer, kind: Kind):
    width, hidden = sizes.width, sizes.hidden
    of_kind = kind == "hugging_face"
    for i in range(sizes.layers):
        ours = (tower, f"block{i}")
        file = "encoder.layers" if of_kind else "transformer.resblocks"
        block = f"{prefix}{file}.{i}."
        ln = "layer_norm" if of_kind else "ln_"
        yield from _layer_norm((*ours, "ln_1"), f"{block}{ln}1", width)
        yield from _layer_norm((*ours, "ln_2"), f"{block}{ln}2", width)
        attention = block + ("self_attn." if of_kind else "attn.")
        if of_kind:
            names = [f"{attention}{part}_proj." for part in "qkv"]
            qkv, outputs = names, width
        else:
            qkv, outputs = [f"{attention}in_proj_"], 3 * width
        yield from _dense((*ours, "qkv"), qkv, width, outputs)
        yield from _dense((*ours, "out"), [f"{attention}out_proj."], width, width)
        first, second = ("fc1", "fc2") if of_kind else ("c_fc", "c_proj")
        yield from _dense((*ours, "fc1"), [f"{block}mlp.{first}."], width, hidden)
        yield from _dense((*ours, "fc2"), [f"{block}mlp.{second}."], hidden, width)


def _layer_norm(path, name, width):
    yield Tensor((*path, "scale"), (f"{name}.weight",), "same", (width,))
    yield Tensor((*path, "bias"), (f"{name}.bias",), "same", (width,))


def _dense(path, names, inputs, outputs):
    weights, biases = (tuple(n + end for n in names) for end in ("weight", "bias"))
    yield Tensor((*path, "kernel"), weights, "transposed", (outputs, inputs))
    yield Tensor((*path, "bias"), biases, "same", (outputs,))


def _projection(path, hugging_face, openai, width, embedding, kind):
    if kind == "hugging_face":
        return Tensor(path, (hugging_face,), "transposed", (embedding, width))
    return Tensor(path, (openai,), "same", (width, embedding))


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
