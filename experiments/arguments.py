"""Command lines that describe an experiment."""

import argparse
from pathlib import Path
from typing import Annotated, TypeVar

import tyro

from experiments.config import LOSSES, METHODS, OWN_DATA
from experiments.configs import get_config

RunDirs = Annotated[
    tuple[Path, ...],
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="RUN_DIR ...", help="folders of runs, or folders of such folders"
    ),
]

_Job = TypeVar("_Job")


def arguments_of(
    job: type[_Job], prog: str, arguments: list[str], recipe: str = "digits_lt"
) -> _Job:
    """The job that a command line describes.

    The recipe, the method, the loss and the data are read first: they set the defaults
    of the rest. Data of the user's own are not cut, and without a recipe are taken as
    ImageNet-LT is.

    Args:
      job: a dataclass whose first field is ``config``, and the only one without a
        default.
      prog: the command, for its help.
      arguments: what follows the command.
      recipe: where none is named and the data are not the user's own.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("config", "method", "loss", "data"):
        first.add_argument(f"--{name}")
    known, _ = first.parse_known_args(arguments)
    own_data = (known.data or "").startswith(OWN_DATA)
    config = get_config(
        known.config or ("imagenet_lt" if own_data else recipe),
        known.method if known.method in METHODS else "focal_sam",
        known.loss if known.loss in LOSSES else None,
    )
    if own_data:
        config = config.replace(data=known.data, imbalance="natural")
    return tyro.cli(job, prog=prog, args=arguments, default=job(config=config))
