"""Small genuine CLIP models on disk."""

from pathlib import Path

import numpy as np
import tokenizers
from flax.traverse_util import unflatten_dict
from tokenizers import models, normalizers, pre_tokenizers, processors

from experiments.models.clip.architecture import (
    Architecture,
    Text,
    Transformer,
    Vision,
)
from experiments.models.clip.export import write_folder
from experiments.models.clip.files import Clip, open_clip
from experiments.models.clip.tensors import text_tensors, vision_tensors

CONTEXT = 16


def write_tokenizer(folder: Path) -> int:
    """Writes a ``tokenizer.json`` like CLIP's; returns its vocabulary size."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokens = sorted(alphabet) + sorted(f"{letter}</w>" for letter in alphabet)
    merges = [("t", "h"), ("th", "e</w>"), ("a", "t</w>"), ("p", "h"), ("ph", "o")]
    tokens += ["".join(pair) for pair in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(
        models.BPE(
            vocabulary,
            merges,
            end_of_word_suffix="</w>",
            unk_token="<|endoftext|>",
            continuing_subword_prefix="",
        )
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Lowercase()]
    )
    words = tokenizers.Regex(
        r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    start, end = ((token, vocabulary[token]) for token in tokens[-2:])
    tokenizer.post_processor = processors.RobertaProcessing(end, start, False, False)
    tokenizer.enable_padding(length=5)
    tokenizer.save(str(folder / "tokenizer.json"))
    return len(tokens)


def write_clip(
    folder: Path, *, image_size: int = 32, width: int = 32, seed: int = 0
) -> Clip:
    """Writes a tiny CLIP with random weights in Hugging Face's folder layout."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = write_tokenizer(folder)
    architecture = Architecture(
        Vision(Transformer(width, 2, 4, 2 * width), image_size, patch_size=8),
        Text(Transformer(24, 2, 3, 40), vocabulary, CONTEXT, vocabulary - 1),
        embedding=16,
    )
    write_folder(folder, architecture, random_clip(architecture, seed))
    return open_clip(str(folder))


def random_clip(architecture: Architecture, seed: int = 0) -> dict:
    """Draws weights of both towers, standard deviation 0.2, as nested dicts."""
    rng = np.random.default_rng(seed)
    weights = {}
    for tensors in (vision_tensors, text_tensors):
        for tensor in tensors(architecture):
            arrays = [
                rng.normal(0, 0.2, shape).astype(np.float32)
                for shape in [tensor.shape] * len(tensor.names)
            ]
            weights[tensor.path] = tensor.read(arrays)
    return unflatten_dict(weights)
