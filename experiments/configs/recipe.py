"""The class of recipes."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from experiments.config import Config, Loss, Method
from experiments.metrics import shot_thresholds

Changes = Mapping[str, Any]


def grid(**values: tuple[float, ...]) -> list[dict[str, float]]:
    """Returns all combinations of the values."""
    combinations = itertools.product(*values.values())
    return [dict(zip(values, chosen, strict=True)) for chosen in combinations]


@dataclass(frozen=True)
class Recipe:
    """A configuration, and its changes for each method and loss.

    Attributes:
      base: configuration that all methods and losses share.
      methods: changes for each method.
      losses: changes for a loss; losses that are not listed change nothing.
      compare_epochs: epochs of every run in ``experiments.compare``; ``None``: as many
        as in training.
      grid: the candidates of ``experiments.compare --tune`` for each method.
      tuning: changes for all candidates, such as a held-out share.
      tuning_seeds: number of seeds per candidate.
    """

    base: Config
    methods: Mapping[Method, Changes]
    losses: Mapping[Loss, Changes] = field(default_factory=dict)
    compare_epochs: int | None = None
    grid: Mapping[Method, list[dict[str, float]]] = field(default_factory=dict)
    tuning: Changes = field(default_factory=dict)
    tuning_seeds: int = 5

    def config(self, method: Method, loss: Loss | None = None) -> Config:
        """Returns the configuration for a method and, if given, another loss."""
        changes = {"method": method, **self.methods[method]}
        if loss is not None:
            changes |= {"loss": loss, **self.losses.get(loss, {})}
        return self.base.replace(**changes)

    def with_factor(self, imbalance_factor: int) -> "Recipe":
        """Returns the recipe at another imbalance factor, named like ``…_if50``.

        The tail of ImbSAM and SSE-SAM is the few-shot classes of that factor.
        """
        base = self.base.replace(
            config=f"{self.base.config}_if{imbalance_factor}",
            imbalance_factor=float(imbalance_factor),
        )
        few, _ = shot_thresholds(base.data, base.imbalance_factor, base.imbalance)
        with_tail: dict[Method, Changes] = {
            method: {**changes, "tail_threshold": few}
            for method, changes in self.methods.items()
            if "tail_threshold" in changes
        }
        return replace(self, base=base, methods={**self.methods, **with_tail})
