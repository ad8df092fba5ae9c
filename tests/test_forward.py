"""The forward pass that stays open, and the order of passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from focal_sam_jax._forward import after


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("tree", [(), (0,), (3,)], ids=["scalar", "empty", "vector"])
def test_waiting_takes_no_digit_from_what_waits(dtype, tree):
    waited = after({"a": jnp.ones(tree, dtype)}, 0.1)
    assert waited.dtype == np.float32 and waited == np.float32(0.1)
    radii = jnp.array([0.1, 0.2])
    np.testing.assert_array_equal(after({"a": jnp.ones(tree, dtype)}, radii), radii)


def test_nor_in_double_precision(x64):
    assert after({"a": jnp.ones(3, "bfloat16")}, jnp.float64(0.1)) == np.float64(0.1)


def test_what_waits_depends_on_the_whole_pass():
    """A compiler that saw through it would drop what it waits for."""

    def waiting(x):
        return after({"a": jnp.sin(x)}, 0.1)

    compiled = jax.jit(waiting).lower(jnp.ones(3)).compile()
    assert "sine" in compiled.as_text()
