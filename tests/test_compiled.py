"""Tests that compiled programs are correct and cached where the user wants it."""

import jaxlib
import pytest
from commands import python

pytest.importorskip("tyro", reason="needs focal_sam_jax[experiments]")

PROGRAM = """
from experiments.cli import keep_compiled
from experiments.ending import exit_with

def main():
    keep_compiled()
    import jax
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.jit(lambda x: x + 1)(1.0)

exit_with(main)
"""


def run(home, **environment):
    """Compiles a program in a process whose home folder is ``home``."""
    own = {"HOME": str(home), "JAX_PLATFORMS": "cpu", **environment}
    return python(PROGRAM, without=["JAX_COMPILATION_CACHE_DIR"], **own)


def entries(folder):
    return sorted(path.name for path in folder.glob("jit_*"))


def test_programs_are_kept_in_the_users_cache(tmp_path):
    folder = tmp_path / ".cache" / "focal_sam_jax" / "compiled"
    assert run(tmp_path).returncode == 0
    kept = entries(folder)
    assert kept
    assert run(tmp_path).returncode == 0
    assert entries(folder) == kept  # the second run found them


def test_a_folder_of_the_users_own_is_used(tmp_path):
    own = tmp_path / "own"
    assert run(tmp_path, JAX_COMPILATION_CACHE_DIR=str(own)).returncode == 0
    assert entries(own)
    assert not (tmp_path / ".cache").exists()


def test_it_can_be_turned_off(tmp_path):
    assert run(tmp_path, JAX_ENABLE_COMPILATION_CACHE="false").returncode == 0
    assert not (tmp_path / ".cache").exists()


def test_a_home_without_room_for_it_is_explained(tmp_path):
    (tmp_path / ".cache").write_text("a file")
    done = run(tmp_path)
    assert done.returncode == 2
    assert "JAX_COMPILATION_CACHE_DIR" in done.stderr
    assert "Traceback" not in done.stderr


SUM = """
import sys
import experiments.train
from experiments.cli import compute_right_sums
import jax, jax.numpy as jnp

if sys.argv[1] == "safe":
    compute_right_sums()
square = jax.jit(jax.vmap(lambda r: jnp.sum((jnp.eye(3) @ r) ** 2)))
rows = jnp.zeros((32769, 3)).at[:, 0].set(jnp.arange(32769))
print(int(square(rows)[-1]))
"""


def last_square(how, **environment):
    """Returns 2^30, unless XLA miscompiles it."""
    users = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "JAX_PLATFORMS": "cpu"}
    done = python(SUM, how, without=["XLA_FLAGS"], **users, **environment)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_sums_are_right():
    assert last_square("safe") == 2**30


@pytest.mark.slow
@pytest.mark.skipif(jaxlib.__version__ != "0.10.2", reason="is right by itself")
def test_by_itself_this_version_gets_them_wrong_and_a_users_choice_stays():
    assert last_square("as it comes") != 2**30
    chosen = {"XLA_FLAGS": "--xla_cpu_experimental_ynn_fusion_type=reduce"}
    assert last_square("safe", **chosen) == last_square("as it comes", **chosen)
