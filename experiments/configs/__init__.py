"""One recipe a file: what, the command, its cost, the expected number, its source."""

from importlib import import_module

from experiments.config import Config, Loss, Method
from experiments.configs.recipe import Recipe as Recipe
from experiments.errors import UserError

_NAMES = (
    "digits_lt",
    "cifar10_lt",
    "cifar10_lt_if10",
    "cifar10_lt_if20",
    "cifar10_lt_if50",
    "cifar10_lt_if200",
    "cifar100_lt",
    "cifar100_lt_if10",
    "cifar100_lt_if20",
    "cifar100_lt_if50",
    "cifar100_lt_if200",
    "imagenet_lt",
    "inaturalist18",
    "places_lt",
    "vit_digits_lt",
    "vit_digits_lt_sgd",
    "clip_cifar10_lt",
    "clip_cifar100_lt",
    "clip_imagenet_lt",
    "clip_inaturalist18",
)
RECIPES: dict[str, Recipe] = {
    name: import_module(f"experiments.configs.{name}").RECIPE for name in _NAMES
}


def get_recipe(name: str) -> Recipe:
    """The recipe of that name."""
    if name not in RECIPES:
        raise UserError(f"--config must be one of {', '.join(RECIPES)}, got {name!r}.")
    return RECIPES[name]


def get_config(name: str, method: Method, loss: Loss | None = None) -> Config:
    """A recipe's configuration for one method, and a loss other than its own."""
    return get_recipe(name).config(method, loss)
