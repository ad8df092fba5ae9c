"""Strict numerics, eight devices on whatever machine this is, and nothing compiled
twice: the processes of one test run, workers and commands, share what they compile."""

import os
import tempfile
from importlib.metadata import version

# Before JAX starts: the multi-device tests need more devices than a laptop has.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
# Soon compiled and slow to run, here and in the commands that tests start; 0 says no.
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


@pytest.hookimpl(tryfirst=True)  # before slow tests are left out
def pytest_collection_modifyitems(items):
    """Of a test for many things alike, some by default and all in CI; an order."""
    for item in items:
        for mark in item.iter_markers("by_default"):
            values = item.callspec.params if hasattr(item, "callspec") else {}
            if any(
                values.get(n, kept[0]) not in kept for n, kept in mark.kwargs.items()
            ):
                item.add_marker("slow")
    # First what takes minutes, so that no worker is left alone with it at the end.
    items.sort(key=lambda item: item.path.stem not in _LONGEST)


@pytest.fixture
def as_users_compile():
    """Slowly compiled and quick to run: for tests that make many steps of one kind."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", QUICK)
