"""Tests of the cosine head: any lengths of vectors, and zero vectors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("flax", reason="needs focal_sam_jax[experiments]")

from experiments.models.functional import functional
from experiments.models.heads import CosineHead


@pytest.fixture(scope="module")
def cosine_head():
    """Returns the initial columns, shape (6, 4), and the head as a function."""
    model = functional(
        lambda rngs: CosineHead(6, 4, rngs, scale=1.0, dtype=jnp.float32)
    )
    params, batch_stats = model.init(jax.random.key(0))

    @jax.jit
    def apply(x, columns):
        return model.apply({"columns": columns}, batch_stats, x, train=True)[0]

    return params["columns"], apply


def test_columns_of_the_cosine_head_start_with_length_one(cosine_head):
    columns, _ = cosine_head
    np.testing.assert_allclose(jnp.linalg.norm(columns, axis=0), 1.0, rtol=1e-6)
    assert (columns.min(axis=0) < 0).all() and (columns.max(axis=0) > 0).all()


@settings(deadline=None)
@given(seed=st.integers(0, 2**31 - 1), exponent=st.integers(-9, 9))
def test_cosines_do_not_feel_lengths(cosine_head, seed, exponent):
    columns, apply = cosine_head
    x = np.random.default_rng(seed).normal(size=(3, 6)).astype(np.float32)
    wanted = x @ columns / np.linalg.norm(x, axis=1, keepdims=True)
    factor = np.float32(10.0**exponent)
    np.testing.assert_allclose(apply(x * factor, columns / factor), wanted, atol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-20, 1e-13, 1e-11])
def test_cosines_of_next_to_nothing_are_finite(cosine_head, size):
    _, apply = cosine_head
    value, gradients = jax.value_and_grad(
        lambda x, columns: apply(x, columns).sum(), argnums=(0, 1)
    )(jnp.full((2, 6), size), jnp.full((6, 4), size))
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(gradient).all() for gradient in gradients)
    if size == 0:
        assert value == 0 and not any(gradient.any() for gradient in gradients)
