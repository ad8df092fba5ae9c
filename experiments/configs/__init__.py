"""One recipe a file: what, the command, the cost, the expected number and its source.

A recipe has ``BASE``, the configuration all methods share; ``TUNED``, what each method
changes in it; and ``GRID``, the candidates that the tuned values were chosen from.
"""

from types import ModuleType

from experiments.config import Config, Method
from experiments.configs import digits_lt
from experiments.errors import UserError

RECIPES = {"digits_lt": digits_lt}


def get_recipe(name: str) -> ModuleType:
    """The recipe of that name."""
    if name not in RECIPES:
        raise UserError(f"--config must be one of {', '.join(RECIPES)}, got {name!r}.")
    return RECIPES[name]


def get_config(name: str, method: Method) -> Config:
    """The configuration of a recipe with the values tuned for one method."""
    recipe = get_recipe(name)
    return recipe.BASE.replace(method=method, **recipe.TUNED[method])
