"""Settings of all tests: strict rank promotion, eight devices, and a compilation cache
that all processes of a test run share."""

import os
import tempfile
from importlib.metadata import version

# Before JAX starts: the multi-device tests need more devices than a laptop has.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# Fast compilation, slow execution, also in commands that tests start; 0 disables it.
if os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1":
    if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
        # XLA's older code generator is quicker by a third; later versions lack it.
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
# Workers and commands inherit the folder from the first process, which removes it.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="compiled-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
QUICK = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


_LONGEST = {"test_resume", "test_notebooks"}


@pytest.hookimpl(tryfirst=True)  # before pytest deselects slow tests
def pytest_collection_modifyitems(items):
    """Applies the ``by_default`` markers and sorts the tests."""
    for item in items:
        for mark in item.iter_markers("by_default"):
            values = item.callspec.params if hasattr(item, "callspec") else {}
            if any(
                values.get(n, kept[0]) not in kept for n, kept in mark.kwargs.items()
            ):
                item.add_marker("slow")
    # Long tests first, so that no worker runs one alone at the end.
    items.sort(key=lambda item: item.path.stem not in _LONGEST)


@pytest.fixture
def as_users_compile():
    """Enables all optimisations, for tests that repeat a compiled step many times."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", QUICK)
