"""Sizes of CLIP's towers, by name or from ``config.json``."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.errors import UserError

ACTIVATIONS = ("quick_gelu", "gelu")


@dataclass(frozen=True)
class Transformer:
    """A stack of blocks.

    Attributes:
      width: length of a token's vector.
      layers: number of blocks.
      heads: number of attention heads; they share the width evenly.
      hidden: width inside the MLP.
      activation: activation of the MLP, ``quick_gelu`` or ``gelu``.
    """

    width: int
    layers: int
    heads: int
    hidden: int
    activation: str = "quick_gelu"

    def __post_init__(self):
        if self.width % self.heads:
            raise UserError(
                f"the width of a CLIP tower must be a multiple of its {self.heads} "
                f"attention heads, got {self.width}."
            )
        if self.activation not in ACTIVATIONS:
            raise UserError(
                f"the activation of a CLIP tower must be one of "
                f"{', '.join(ACTIVATIONS)}, got {self.activation!r}."
            )


@dataclass(frozen=True)
class Vision:
    """The image tower: ``tokens = (image_size / patch_size)² + 1``."""

    transformer: Transformer
    image_size: int
    patch_size: int
    channels: int = 3

    def __post_init__(self):
        if self.image_size % self.patch_size:
            raise UserError(
                "the image size must be a multiple of the patch size, "
                f"{self.patch_size} pixels, got {self.image_size}."
            )

    @property
    def tokens(self) -> int:
        """Number of patches, plus one class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


@dataclass(frozen=True)
class Text:
    """The text tower.

    Attributes:
      transformer: its blocks.
      vocabulary: number of different tokens.
      context: tokens per text, including start, end and padding.
      end_token: token whose first position carries the feature; ``None``: the largest
        token of the text, as in OpenAI's vocabulary.
    """

    transformer: Transformer
    vocabulary: int = 49_408
    context: int = 77
    end_token: int | None = None


@dataclass(frozen=True)
class Architecture:
    """Both towers, and the size of their shared space."""

    vision: Vision
    text: Text
    embedding: int


def _clip(width, layers, heads, image, patch, text_width, text_heads, embedding):
    return Architecture(
        Vision(Transformer(width, layers, heads, 4 * width), image, patch),
        Text(Transformer(text_width, 12, text_heads, 4 * text_width)),
        embedding,
    )


# Radford et al., "Learning Transferable Visual Models From Natural Language
# Supervision", ICML 2021, tables 19 and 20.
ARCHITECTURES = {
    "ViT-B/32": _clip(768, 12, 12, 224, 32, 512, 8, 512),
    "ViT-B/16": _clip(768, 12, 12, 224, 16, 512, 8, 512),
    "ViT-L/14": _clip(1024, 24, 16, 224, 14, 768, 12, 768),
    "ViT-L/14@336": _clip(1024, 24, 16, 336, 14, 768, 12, 768),
}


def from_hugging_face(config: Mapping[str, Any]) -> Architecture:
    """Reads the architecture from a ``config.json`` of Hugging Face's CLIP.

    Missing values are those of CLIP ViT-B/32, as in Hugging Face.
    """
    vision, text = config.get("vision_config") or {}, config.get("text_config") or {}
    for name, part in {"vision": vision, "text": text}.items():
        eps = part.get("layer_norm_eps", 1e-5)
        if eps != 1e-5:
            raise UserError(
                f"layer_norm_eps of CLIP's {name} tower must be 1e-05, got {eps:g}."
            )
    # Id 2, in old files, is no end token of CLIP: it means the largest token.
    end_token = text.get("eos_token_id", 49_407)
    return Architecture(
        Vision(
            _transformer(vision, 768, 12, 12, 3072),
            vision.get("image_size", 224),
            vision.get("patch_size", 32),
            vision.get("num_channels", 3),
        ),
        Text(
            _transformer(text, 512, 12, 8, 2048),
            text.get("vocab_size", 49_408),
            text.get("max_position_embeddings", 77),
            None if end_token == 2 else end_token,
        ),
        config.get("projection_dim", 512),
    )


def to_hugging_face(architecture: Architecture) -> dict[str, Any]:
    """Makes a ``config.json``; the inverse of :func:`from_hugging_face`."""
    vision, text = architecture.vision, architecture.text
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": architecture.embedding,
        "vision_config": {
            "model_type": "clip_vision_model",
            **_sizes(vision.transformer),
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "num_channels": vision.channels,
            "projection_dim": architecture.embedding,
        },
        "text_config": {
            "model_type": "clip_text_model",
            **_sizes(text.transformer),
            "vocab_size": text.vocabulary,
            "max_position_embeddings": text.context,
            "eos_token_id": 2 if text.end_token is None else text.end_token,
            "projection_dim": architecture.embedding,
        },
    }


_FIELDS = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "activation": "hidden_act",
}


def _transformer(part, width, layers, heads, hidden):
    default = Transformer(width, layers, heads, hidden)
    found = {ours: part[name] for ours, name in _FIELDS.items() if name in part}
    return dataclasses.replace(default, **found)


def _sizes(transformer):
    return {name: getattr(transformer, ours) for ours, name in _FIELDS.items()}
