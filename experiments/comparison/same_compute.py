"""What a comparison trains for as long as Focal-SAM takes: what, and how long."""

from collections.abc import Callable, Sequence

from experiments.comparison.seeds import make_group_trainer, run_group
from experiments.config import Approximation, Config
from experiments.data.dataset import Dataset
from experiments.reporting.runs import step_seconds

# Enough for a median that a slow moment does not move.
_TIMED_EPOCHS = 5


def rows(
    configs: dict[str, Config], approximations: Sequence[Approximation]
) -> dict[str, Config]:
    """By name, the configurations to be lengthened: SGD, and Focal-SAM approximated.

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
    """With the epochs it can make in the time that ``config.epochs`` of others take.

    Args:
      config: what a few epochs are run of, to see how long its steps take.
      seconds: that a step of the others takes.
      group: the seeds to run, as in :func:`experiments.comparison.seeds.run_group`.
      datasets: theirs.
      clock: tells the time in seconds.
      device_loop: as in :func:`experiments.comparison.seeds.make_group_trainer`.
    """
    timed = config.replace(epochs=_TIMED_EPOCHS, warmup=0)
    trainer = make_group_trainer(timed, datasets, device_loop=device_loop)
    # The scores are dropped.
    outcomes = run_group(timed, trainer, group, datasets, "test", clock)
    ratio = seconds / step_seconds(outcomes[0].rows)
    return config.with_epochs(max(1, round(ratio * config.epochs)))
