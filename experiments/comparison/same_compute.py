"""Runs that a comparison trains for as long as Focal-SAM takes."""

from collections.abc import Callable, Sequence

from experiments.comparison.seeds import make_group_trainer, run_group
from experiments.config import Approximation, Config
from experiments.data.dataset import Dataset
from experiments.reporting.runs import step_seconds

# Enough that one slow epoch does not change the median.
_TIMED_EPOCHS = 5


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
    seconds: float,
    group: list[int],
    datasets: list[Dataset],
    clock: Callable[[], float],
    *,
    device_loop: bool,
) -> Config:
    """Returns ``config`` with epochs that take as long as a run of Focal-SAM.

    Args:
      config: configuration; a few epochs are run to time its steps.
      seconds: time of a step of Focal-SAM, which makes ``config.epochs`` epochs.
      group: the seeds to run, as in :func:`experiments.comparison.seeds.run_group`.
      datasets: their data sets.
      clock: function that returns the time in seconds.
      device_loop: as in :func:`experiments.comparison.seeds.make_group_trainer`.
    """
    timed = config.replace(epochs=_TIMED_EPOCHS, warmup=0)
    trainer = make_group_trainer(timed, datasets, device_loop=device_loop)
    # The scores are dropped.
    outcomes = run_group(timed, trainer, group, datasets, "test", clock)
    ratio = seconds / step_seconds(outcomes[0].rows)
    return config.with_epochs(max(1, round(ratio * config.epochs)))
