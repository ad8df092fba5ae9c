"""Training, comparing and measuring with focal_sam_jax. Not part of the wheel."""

from importlib.util import find_spec

_NEEDED = ("flax", "matplotlib", "orbax", "rich", "sklearn", "tensorboardX", "tyro")
_missing = [package for package in _NEEDED if find_spec(package) is None]
if _missing:
    raise ImportError(
        f"the experiments need {', '.join(_missing)}, which "
        f"{'is' if len(_missing) == 1 else 'are'} not installed: in the folder of the "
        "repository run pip install -e '.[experiments]'."
    )

# Imported last, because it imports some of these packages.
from experiments.ending import begin  # noqa: E402

begin()
