"""How XLA compiles for the commands: right sums, and nothing twice."""

import os
from pathlib import Path

import jax
import jaxlib

from experiments.errors import UserError

_FOLDER = Path("~/.cache/focal_sam_jax/compiled")
# Versions that on CPU compute some sums wrong or crash on them (jax-ml/jax#39103 and
# #40412, #39257), and what leaves them, and single convolutions, to XLA itself. An
# unknown flag would end the process: these versions know it.
_WRONG_SUMS = {"0.10.2", "0.11.0"}
_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_WITHOUT_THEM = f"{_FLAG}=-individual_convolution,-reduce"


def compute_right_sums() -> None:
    """Keeps XLA's CPU backend from sums that it gets wrong, before JAX finds devices.

    A choice of the user's own in ``XLA_FLAGS`` is left as it is.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if jaxlib.__version__ in _WRONG_SUMS and _FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_WITHOUT_THEM}".strip()


def keep_compiled() -> None:
    """Turns JAX's persistent compilation cache on, before anything is compiled.

    A folder of the user's own, ``JAX_COMPILATION_CACHE_DIR``, is left as it is, and
    ``JAX_ENABLE_COMPILATION_CACHE=false`` turns the cache off.

    Raises:
      UserError: if the folder cannot be made.
    """
    config = jax.config
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return
    folder = _FOLDER.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot make {folder} to keep compiled programs in: {error.strerror}; set "
            "JAX_COMPILATION_CACHE_DIR to another folder, or "
            "JAX_ENABLE_COMPILATION_CACHE=false."
        ) from error
    config.update("jax_compilation_cache_dir", str(folder))
