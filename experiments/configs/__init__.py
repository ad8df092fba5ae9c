"""Recipes, one per file: content, command, cost, expected number and sources."""

from experiments.config import Config, Loss, Method
from experiments.configs import (
    cifar10_lt,
    cifar100_lt,
    clip_cifar10_lt,
    clip_cifar100_lt,
    clip_imagenet_lt,
    clip_inaturalist18,
    digits_lt,
    fashion_mnist_lt,
    fashion_mnist_lt_overfit,
    fashion_mnist_lt_small,
    imagenet_lt,
    inaturalist18,
    places_lt,
    vit_digits_lt,
    vit_digits_lt_sgd,
)
from experiments.configs.recipe import Recipe
from experiments.errors import UserError

RECIPES: dict[str, Recipe] = {
    recipe.base.config: recipe
    for recipe in (
        digits_lt.RECIPE,
        fashion_mnist_lt.RECIPE,
        fashion_mnist_lt_small.RECIPE,
        fashion_mnist_lt_overfit.RECIPE,
        cifar10_lt.RECIPE,
        *cifar10_lt.OTHER_FACTORS,
        cifar100_lt.RECIPE,
        *cifar100_lt.OTHER_FACTORS,
        imagenet_lt.RECIPE,
        inaturalist18.RECIPE,
        places_lt.RECIPE,
        vit_digits_lt.RECIPE,
        vit_digits_lt_sgd.RECIPE,
        clip_cifar10_lt.RECIPE,
        clip_cifar100_lt.RECIPE,
        clip_imagenet_lt.RECIPE,
        clip_inaturalist18.RECIPE,
    )
}


def get_recipe(name: str) -> Recipe:
    """Returns the recipe of that name."""
    if name not in RECIPES:
        raise UserError(f"--config must be one of {', '.join(RECIPES)}, got {name!r}.")
    return RECIPES[name]


def recipe_for(data: str, *, clip: bool) -> str | None:
    """Returns the first recipe for a data set, with CLIP or not, if there is one."""
    return next(
        (
            name
            for name, recipe in RECIPES.items()
            if recipe.base.data == data and (recipe.base.model == "clip") == clip
        ),
        None,
    )


def get_config(name: str, method: Method, loss: Loss | None = None) -> Config:
    """Returns a recipe's configuration for a method and, if given, another loss."""
    return get_recipe(name).config(method, loss)
