"""What was compiled once is kept for the next run."""

from pathlib import Path

import jax

from experiments.errors import UserError

_FOLDER = Path("~/.cache/focal_sam_jax/compiled")


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
