"""Code that all commands share: command-line arguments and XLA settings."""

import argparse
import dataclasses
import os
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

import jax
import jaxlib
import tyro

from experiments.config import (
    LOSSES,
    METHODS,
    OWN_DATA,
    Config,
    Section,
    at_least,
    check_bounds,
    check_effects,
    sections_of,
)
from experiments.configs import get_config, recipe_for
from experiments.configs.own_data import own_config
from experiments.data.load import look_at
from experiments.errors import UserError

RunDirs = Annotated[
    tuple[Path, ...],
    tyro.conf.Positional,
    tyro.conf.arg(
        metavar="RUN_DIR ...",
        help="folders of runs or of comparisons, or folders that contain runs",
    ),
]

DataDir = Annotated[
    Path,
    Section("data"),
    tyro.conf.arg(help="folder of data sets; digits_lt needs none"),
]
Workers = Annotated[
    int,
    Section("data"),
    tyro.conf.arg(help="processes that read images; 0: threads only"),
    at_least(0),
]

# Options that the defaults of the others depend on.
_FIRST = ("config", "method", "loss", "data", "epochs", "schedule", "rho_schedule")
_FIRST += ("model", "init_weights", "image_size", "data_dir", "subset_seed")
_FOLDER = Path("~/.cache/focal_sam_jax/compiled")
# jaxlib versions that on CPU compute some sums wrong or crash on them
# (jax-ml/jax#39103 and #40412, #39257). The flag leaves these sums, and single
# convolutions, to XLA itself. An unknown flag ends the process; these versions know it.
_WRONG_SUMS = {"0.10.2", "0.11.0"}
_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_WITHOUT_THEM = f"{_FLAG}=-individual_convolution,-reduce"

_Job = TypeVar("_Job")


def arguments_of(
    job: type[_Job], prog: str, arguments: list[str], recipe: str = "digits_lt"
) -> _Job:
    """Returns the job that a command line describes.

    The recipe, method, loss, data, epochs and schedules are read first: they set the
    other defaults. If no recipe is named, it is the first one for the data. The user's
    own data are used as they are, without cutting a tail; some are read to choose a
    recipe. With other epochs, milestones and switches are scaled. A given ``--rho``
    replaces a step schedule of the radius by a constant, unless ``--rho-schedule`` is
    given too.

    Args:
      job: a dataclass whose first field is ``config``, its only field without a
        default.
      prog: name of the command, for its help.
      arguments: the arguments after the command.
      recipe: recipe to use if neither a recipe nor data are named.

    Raises:
      UserError: if an option is out of bounds, or has no effect with the others.
    """
    given = {
        argument[2:].partition("=")[0].replace("-", "_")
        for argument in arguments
        if argument.startswith("--")
    }
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in _FIRST:
        first.add_argument(f"--{name}", f"--{name.replace('_', '-')}")
    known, _ = first.parse_known_args(arguments)
    own_data = (known.data or "").startswith(OWN_DATA)
    method = known.method if known.method in METHODS else "focal_sam"
    loss = known.loss if known.loss in LOSSES else None
    clip = recipe.startswith("clip") or known.model == "clip"
    if known.data and not known.config:
        recipe = recipe_for(known.data, clip=clip) or recipe
    if own_data and not known.config:
        config = _fitting(known, method, loss, clip=clip)
    else:
        config = get_config(known.config or recipe, method, loss)
    if own_data:
        config = config.replace(data=known.data, imbalance="natural")
    for name in ("schedule", "rho_schedule"):  # before what belongs to them is scaled
        config = config.replace(**{name: getattr(known, name) or getattr(config, name)})
    if (known.epochs or "").isdecimal() and int(known.epochs) > 0:
        config = config.with_epochs(int(known.epochs))
    if "rho" in given and "rho_schedule" not in given and config.rho_schedule == "step":
        config = config.replace(rho_schedule="constant")
    parsed: Any = _in_sections(job, prog, arguments, config)
    check_bounds(parsed)
    check_effects(parsed.config, given)
    return parsed


def _in_sections(
    job: type[_Job], prog: str, arguments: list[str], config: Config
) -> _Job:
    """Parses a job's options, which the help lists section by section."""
    sections: dict[str, list[tuple[str, Any, Any]]] = {}
    default: Any = job(config=config)
    for options in (config, default):
        hints = get_type_hints(type(options), include_extras=True)
        for name, title in sections_of(type(options)).items():
            if options is config or name != "config":
                value = dataclasses.field(default=getattr(options, name))
                sections.setdefault(title, []).append((name, hints[name], value))
    parts = {
        title: dataclasses.make_dataclass(title, fields, frozen=True)
        for title, fields in sections.items()
    }
    whole = dataclasses.make_dataclass(
        job.__name__,
        [
            (title, tyro.conf.OmitArgPrefixes[part], dataclasses.field(default=part()))
            for title, part in parts.items()
        ],
    )
    for made in (*parts.values(), whole):
        made.__doc__ = job.__doc__ if made is whole else " "
    parsed = tyro.cli(whole, prog=prog, args=arguments)
    values = {
        name: getattr(getattr(parsed, title), name)
        for title, fields in sections.items()
        for name, *_ in fields
    }
    own = {f.name: values.pop(f.name) for f in dataclasses.fields(Config)}
    return job(**{"config": Config(**own), **values})


def _fitting(known: argparse.Namespace, method, loss, *, clip: bool) -> Config:
    """Returns a configuration for own data, after reading some of them."""
    seed, size = (
        int(number) if (number or "").isdecimal() else None
        for number in (known.subset_seed, known.image_size)
    )
    data = Config(data=known.data, imbalance="natural", subset_seed=seed or 0)
    counts, median = look_at(data, Path(known.data_dir or "data"))
    pretrained = None
    if known.init_weights and not clip:
        # Flax takes half a second to import, and not every command needs it.
        from experiments.models import network_of, open_pretrained

        pretrained = network_of(open_pretrained(known.init_weights))
    config = own_config(
        counts,
        median,
        method,
        loss,
        clip=clip,
        image_size=size,
        pretrained=pretrained,
    )
    if known.data.startswith("idx:") and config.augment == "crop_flip":
        # Most sets in this format hold characters, which must not be mirrored.
        config = config.replace(augment="affine")
    return config


def prepare_jax() -> None:
    """Prevents wrong sums on CPU, and keeps compiled programs for the next command."""
    compute_right_sums()
    keep_compiled()


def compute_right_sums() -> None:
    """Sets a flag that prevents wrong sums in XLA's CPU backend.

    Call it before JAX finds devices. The flag is not changed if ``XLA_FLAGS`` has it.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if jaxlib.__version__ in _WRONG_SUMS and _FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_WITHOUT_THEM}".strip()


def keep_compiled() -> None:
    """Turns JAX's persistent compilation cache on.

    Call it before anything is compiled. A folder in ``JAX_COMPILATION_CACHE_DIR`` is
    kept, and ``JAX_ENABLE_COMPILATION_CACHE=false`` turns the cache off.

    Raises:
      UserError: if the folder cannot be made.
    """
    config = jax.config
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return
    try:
        folder = _FOLDER.expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder.
        raise UserError(
            f"cannot create {_FOLDER} for compiled programs: {error}; set "
            "JAX_COMPILATION_CACHE_DIR to another folder, or "
            "JAX_ENABLE_COMPILATION_CACHE=false."
        ) from error
    config.update("jax_compilation_cache_dir", str(folder))
