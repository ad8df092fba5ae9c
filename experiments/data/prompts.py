"""Sentences about classes, for CLIP's text tower."""

from collections.abc import Sequence
from pathlib import Path

SINGLE = ("a photo of a {}.",)

# Published with CLIP for ImageNet: github.com/openai/CLIP, the notebook
# Prompt_Engineering_for_ImageNet, MIT licence.
IMAGENET_80 = tuple(
    (Path(__file__).parent / "names" / "imagenet_templates.txt")
    .read_text()
    .splitlines()
)


def prompts(names: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """For every name all templates, filled in."""
    return [[template.format(name) for template in templates] for name in names]
