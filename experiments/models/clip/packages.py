"""Packages that only CLIP needs."""

from importlib import import_module
from types import ModuleType

from experiments.errors import UserError


def import_package(name: str) -> ModuleType:
    """The package, or a sentence on how to get it."""
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(
            f"CLIP needs the package {name}: pip install -e '.[experiments,clip]'."
        ) from error
