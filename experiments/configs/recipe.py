"""What a recipe is."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from experiments.config import Config, Loss, Method

Changes = Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A configuration, and what the choice of a method or a loss changes in it.

    Attributes:
      base: what all methods and losses share.
      methods: each method's own values.
      losses: what goes with a loss; those not listed change nothing.
      compare_epochs: epochs of every run in ``experiments.compare``; ``None``: as many
        as in training.
      grid: the candidates of ``experiments.compare --tune`` for each method.
    """

    base: Config
    methods: Mapping[Method, Changes]
    losses: Mapping[Loss, Changes] = field(default_factory=dict)
    compare_epochs: int | None = None
    grid: Mapping[Method, list[dict[str, float]]] = field(default_factory=dict)

    def config(self, method: Method, loss: Loss | None = None) -> Config:
        """The configuration for a method, and for a loss other than the usual one."""
        changes = {"method": method, **self.methods[method]}
        if loss is not None:
            changes |= {"loss": loss, **self.losses.get(loss, {})}
        return self.base.replace(**changes)

    def with_factor(
        self, config: str, imbalance_factor: float, *, tail_threshold: int
    ) -> "Recipe":
        """The recipe ``config``: another imbalance factor, and ImbSAM's tail for it."""
        imbsam = {**self.methods["imbsam"], "tail_threshold": tail_threshold}
        return replace(
            self,
            base=self.base.replace(config=config, imbalance_factor=imbalance_factor),
            methods={**self.methods, "imbsam": imbsam},
        )
