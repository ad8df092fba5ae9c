"""Runs that a comparison trains for as long as Focal-SAM takes."""

import statistics
from collections.abc import Callable, Sequence

from experiments.comparison.seeds import make_group_trainer, run_group
from experiments.config import Approximation, Config
from experiments.data.dataset import Dataset
from experiments.reporting.runs import step_seconds

# Of two epochs the second counts, because the first compiles.
_TURNS, _TIMED_EPOCHS = 3, 2


def rows(
    configs: dict[str, Config], approximations: Sequence[Approximation]
) -> dict[str, Config]:
    """Returns by name the configurations to lengthen: SGD and approximations.

    An approximation has Focal-SAM's hyper-parameters.
    """
    found = {}
    if {"sgd", "focal_sam"} <= configs.keys():
        found["sgd, same compute"] = configs["sgd"]
    for name in dict.fromkeys(approximations):
        config = configs["focal_sam"].replace(approximation=name)
        found[f"focal_sam, {name}, same compute"] = config
    return found


def lengthened(
    config: Config,
    reference: Config,
    group: list[int],
    datasets: list[Dataset],
    clock: Callable[[], float],
    *,
    device_loop: bool,
) -> Config:
    """Returns ``config`` with epochs that take as long as those of ``reference``.

    Both are timed now and in turns, because the speed of a machine changes.

    Args:
      config: configuration to lengthen.
      reference: configuration of Focal-SAM.
      group: the seeds to run, as in :func:`experiments.comparison.seeds.run_group`.
      datasets: their data sets.
      clock: function that returns the time in seconds.
      device_loop: as in :func:`experiments.comparison.seeds.make_group_trainer`.
    """

    def timer(config):
        timed = config.replace(epochs=_TIMED_EPOCHS, warmup=0)
        trainer = make_group_trainer(timed, datasets, device_loop=device_loop)

        def seconds():  # The scores are dropped.
            outcomes = run_group(timed, trainer, group, datasets, "test", clock)
            return step_seconds(outcomes[0].rows)

        return seconds

    ours, theirs = timer(config), timer(reference)
    ratio = statistics.median(theirs() / ours() for _ in range(_TURNS))
    return config.with_epochs(max(1, round(ratio * reference.epochs)))
