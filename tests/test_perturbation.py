"""Tests of the ascent step: its length, its direction, its dtype, its mask."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from focal_sam_jax._perturbation import perturb, resolve_mask, widen

TREE = {"a": {"kernel": 0, "bias": 0}, "b": 0}
ALL = jax.tree.map(lambda _: True, TREE)
few_examples = settings(deadline=None, max_examples=25)
low_precision = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])

# Wide, but squares fit in float32.
numbers = st.floats(-1e3, 1e3, width=32).filter(lambda v: v == 0 or abs(v) > 1e-3)
some_tree = st.fixed_dictionaries(
    {
        "a": st.fixed_dictionaries(
            {
                "kernel": arrays(np.float32, (2, 3), elements=numbers),
                "bias": arrays(np.float32, 3, elements=numbers),
            }
        ),
        "b": arrays(np.float32, (), elements=numbers),
    }
)
some_mask = st.fixed_dictionaries(
    {
        "a": st.fixed_dictionaries({"kernel": st.booleans(), "bias": st.booleans()}),
        "b": st.booleans(),
    }
)
some_rho = st.floats(0.01, 10.0)


def doubles(tree):
    return jax.tree.map(np.float64, tree)


# --- length and direction -------------------------------------------------------------


@few_examples
@given(some_tree, some_tree, some_rho, st.booleans(), some_mask)
def test_agrees_with_the_oracle(params, gradient, rho, adaptive, mask):
    point = perturb(params, gradient, rho, adaptive=adaptive, selected=mask)
    epsilon, norm = ref.ascent(doubles(params), doubles(gradient), rho, adaptive, mask)
    want = ref.add(doubles(params), epsilon)
    np.testing.assert_allclose(point.norm, norm, rtol=1e-5)
    scale = np.abs(ref.flat(want)).max() + rho
    np.testing.assert_allclose(
        ref.flat(point.params), ref.flat(want), atol=1e-5 * scale
    )
    assert point.moved == (norm > 0)


@few_examples
@given(some_tree, some_rho)
def test_the_step_has_the_length_rho(gradient, rho):
    zero = jax.tree.map(np.zeros_like, gradient)
    point = perturb(zero, gradient, rho)
    want = rho if np.any(ref.flat(gradient)) else 0.0
    np.testing.assert_allclose(optax.tree.norm(point.params), want, rtol=1e-5)


@few_examples
@given(some_tree, some_tree, st.sampled_from([2.0**-10, 4.0, 2.0**12]))
def test_the_size_of_the_gradient_does_not_matter(params, gradient, factor):
    here = perturb(params, gradient, 0.5).params
    scaled = jax.tree.map(lambda g: np.float32(factor) * g, gradient)
    there = perturb(params, scaled, 0.5).params
    np.testing.assert_allclose(ref.flat(there), ref.flat(here), rtol=1e-4, atol=1e-5)


@few_examples
@given(some_tree, some_tree, st.sampled_from([0.125, 4.0, 64.0]))
def test_the_adaptive_step_scales_with_the_parameters(params, gradient, factor):
    # ASAM: scaling theta by A divides the gradient by A and multiplies the step by A.
    climb = partial(perturb, rho=0.5, adaptive=True)
    here = climb(params, gradient).params
    there = climb(
        jax.tree.map(lambda p: np.float32(factor) * p, params),
        jax.tree.map(lambda g: g / np.float32(factor), gradient),
    ).params
    want = factor * ref.flat(here)
    np.testing.assert_allclose(ref.flat(there), want, rtol=1e-4, atol=1e-5 * factor)


def test_the_norm_and_the_step_run_over_the_mask_only():
    params = {"a": jnp.zeros(2), "b": jnp.ones(2)}
    gradient = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([1e6, jnp.nan])}
    point = perturb(params, gradient, 1.0, selected={"a": True, "b": False})
    assert point.norm == 5
    np.testing.assert_allclose(point.params["a"], [0.6, 0.8], rtol=1e-6)
    assert point.params["b"] is params["b"]


def test_a_mask_of_nothing_moves_nothing():
    params = {"a": jnp.ones(2)}
    point = perturb(params, params, 1.0, selected={"a": False})
    assert point.params["a"] is params["a"]
    assert point.norm == 0 and not point.moved


# --- where there is no direction ------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("adaptive", [False, True])
def test_a_zero_gradient_moves_nothing(dtype, adaptive):
    params = {"a": jnp.array([1.0, -2.0], dtype)}
    zero = {"a": jnp.zeros(2, dtype)}
    point = perturb(params, zero, 0.5, adaptive=adaptive)
    np.testing.assert_array_equal(point.params["a"], params["a"])
    assert point.norm == 0 and not point.moved


def test_zero_parameters_have_no_adaptive_step():
    params, gradient = {"a": jnp.zeros(2)}, {"a": jnp.ones(2)}
    point = perturb(params, gradient, 0.5, adaptive=True)
    np.testing.assert_array_equal(point.params["a"], np.zeros(2))
    assert not point.moved


def test_a_radius_of_zero_moves_nothing():
    params, gradient = {"a": jnp.ones(2)}, {"a": jnp.ones(2)}
    point = perturb(params, gradient, 0.0)
    np.testing.assert_array_equal(point.params["a"], params["a"])
    assert point.norm > 0 and not point.moved


# --- precision ------------------------------------------------------------------------


@low_precision
@pytest.mark.parametrize("size", [1e-4, 2e3])
def test_squares_outside_float16_have_a_norm(dtype, size):
    gradient = {"a": jnp.full((64, 64), size, dtype)}
    point = perturb(gradient, gradient, 1.0)
    assert point.norm.dtype == jnp.float32
    np.testing.assert_allclose(point.norm, 64 * size, rtol=5e-3)


@low_precision
def test_a_step_in_low_precision_is_the_float32_step_rounded_once(dtype):
    rng = np.random.default_rng(0)
    params, gradient = (jnp.asarray(rng.normal(size=99), dtype) for _ in range(2))
    got = perturb(params, gradient, 5.0).params
    wide = perturb(widen(params), widen(gradient), 5.0).params
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, wide.astype(dtype))


def test_every_array_keeps_its_own_dtype(x64):
    dtypes = {"a": jnp.float16, "b": jnp.bfloat16, "c": jnp.float32, "d": jnp.float64}
    params = {key: jnp.ones(3, dtype) for key, dtype in dtypes.items()}
    point = perturb(params, params, 0.5)
    assert {key: leaf.dtype for key, leaf in point.params.items()} == dtypes
    assert point.norm.dtype == jnp.float64


@pytest.mark.parametrize(
    ("dtype", "wide"),
    [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32")],
)
def test_widening_goes_to_float32(dtype, wide):
    assert widen(jnp.ones(2, dtype)).dtype == wide


def test_widening_keeps_float64(x64):
    assert widen(jnp.ones(2)).dtype == jnp.float64


# --- masks ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mask", "want"),
    [
        (None, ALL),
        (True, ALL),
        (np.True_, ALL),
        ({"a": True, "b": True}, ALL),
        ({"a": False, "b": True}, {"a": {"kernel": False, "bias": False}, "b": True}),
        (lambda tree: {"a": tree["b"] == 0, "b": True}, ALL),
        (lambda tree: None, ALL),
    ],
    ids=[
        "none",
        "bool",
        "NumPy bool",
        "prefix",
        "mixed",
        "function",
        "function of none",
    ],
)
def test_a_mask_becomes_a_tree_like_the_parameters(mask, want):
    assert resolve_mask(mask, TREE) == want


def test_a_mask_is_decided_when_traced_not_when_run():
    @jax.jit
    def kept(params):
        tree = resolve_mask(lambda p: jax.tree.map(lambda x: x.ndim == 2, p), params)
        assert tree == {"a": True, "b": False}
        return params

    kept({"a": jnp.ones((2, 2)), "b": jnp.ones(2)})
