"""``sharpness_aware_value_and_grad``: the drop-in for ``jax.value_and_grad``."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from oracle_jax import (
    FULL,
    HEAD_ONLY,
    MAKERS,
    PARAMS,
    assert_same,
    few_examples,
    in_both_precisions,
    one_by_one,
    per_class_loss,
    plain,
    some_labels,
    some_seed,
    to_jax,
)
from tracing import counted

import focal_sam_jax as fsam

FOCAL = np.array([(1 - n / ref.COUNTS.sum()) ** 2.5 for n in ref.COUNTS])
TAIL = np.array([0.0, 0.0, 1.0, 1.0])
METHODS = {"sam": (1.0, 1.0), "imbsam": (TAIL, 1.0), "focal_sam": (FOCAL, 0.8)}
every_method = pytest.mark.parametrize("name", METHODS)

some_weights = arrays(np.float64, ref.CLASSES, elements=st.floats(0, 2, width=16))
some_rho = st.floats(0.01, 1.0)


engine = fsam.sharpness_aware_value_and_grad


# --- the oracle -----------------------------------------------------------------------


@pytest.mark.by_default(x64=(True,))
@every_method
@pytest.mark.parametrize(
    "options", [{}, {"mask": HEAD_ONLY}, {"adaptive": True}], ids=lambda o: str(list(o))
)
@in_both_precisions
def test_agrees_with_the_oracle(name, options, x64, tolerance):
    (weights, lam), (_, oracle) = METHODS[name], MAKERS[name]
    want = oracle(params=FULL, rho=0.3, **options)
    with jax.enable_x64(x64):
        fn = jax.jit(engine(per_class_loss, weights, rho=0.3, lam=lam, **options))
        loss, grads = fn(to_jax(FULL))
    assert_same(grads, want.gradient, tolerance)
    exact = sum(ref.class_loss(FULL, c) for c in range(ref.CLASSES))
    np.testing.assert_allclose(loss, exact, rtol=tolerance)


@few_examples
@given(some_seed, some_labels, some_weights, some_rho, st.floats(0, 2))
def test_any_class_weights_agree_with_the_oracle(seed, labels, weights, rho, lam):
    params = ref.parameters(seed)
    with jax.enable_x64(True):
        _, got = weighted_engine(params, labels, weights, rho, lam)
    _, home = ref.weighted(params, 1 - lam * weights, y=labels)
    _, uphill = ref.weighted(params, weights, y=labels)
    epsilon, _ = ref.ascent(params, uphill, rho)
    _, there = ref.weighted(ref.add(params, epsilon), lam * weights, y=labels)
    assert_same(got, ref.add(home, there), 1e-9)


@jax.jit
def weighted_engine(params, labels, weights, rho, lam):
    return engine(partial(per_class_loss, y=labels), weights, rho=rho, lam=lam)(params)


@few_examples
@given(some_seed, some_labels, some_rho)
def test_equal_weights_are_one_weight(seed, labels, rho):
    # One weight is known when traced, an array is not: code paths differ.
    with jax.enable_x64(True):
        params = ref.parameters(seed)
        _, got = uniform_engine(params, labels, rho)
        _, want = weighted_engine(params, labels, np.full(ref.CLASSES, 0.5), rho, 1.0)
    assert_same(got, want, 1e-9)


@jax.jit
def uniform_engine(params, labels, rho):
    return engine(partial(per_class_loss, y=labels), 0.5, rho=rho)(params)


# --- identities -----------------------------------------------------------------------


@every_method
@pytest.mark.parametrize("form", ["array", "list"])
def test_the_engine_is_the_transform(name, form):
    weights, lam = METHODS[name]
    f = per_class_loss if form == "array" else one_by_one()
    _, got = engine(f, weights, rho=0.3, lam=lam)(PARAMS)
    make, _ = MAKERS[name]
    _, grads = plain(PARAMS)
    tx = make(rho=0.3)
    want, _ = tx.update(grads, tx.init(PARAMS), PARAMS, per_class_loss_fn=f)
    assert_same(got, want)


@few_examples
@given(some_seed, some_labels)
def test_a_list_of_functions_is_the_array_function(seed, labels):
    params = jax.tree.map(np.float32, ref.parameters(seed))
    (loss, grads), (same_loss, same) = both_forms(params, labels)
    np.testing.assert_allclose(loss, same_loss, rtol=1e-6)
    assert_same(grads, same)


@jax.jit
def both_forms(params, labels):
    options = {"class_weights": FOCAL, "rho": 0.2, "lam": 0.7}
    array = engine(partial(per_class_loss, y=labels), **options)
    return array(params), engine(one_by_one(labels), **options)(params)


@pytest.mark.parametrize("zero", [{"lam": 0.0}, {"rho": 0.0}, {"class_weights": 0.0}])
@pytest.mark.parametrize("weights", [1.0, FOCAL], ids=["equal", "focal"])
def test_the_plain_gradient_to_the_bit(zero, weights):
    options = {"class_weights": weights, "rho": 0.3, "lam": 0.8} | zero
    got = jax.jit(lambda p: (engine(per_class_loss, **options)(p), plain(p)))
    (loss, grads), (want_loss, want) = got(PARAMS)
    assert loss == want_loss
    jax.tree.map(np.testing.assert_array_equal, grads, want)


# --- the signature of value_and_grad --------------------------------------------------


def test_arguments_are_handed_on_to_the_loss_function():
    fn = engine(per_class_loss, 1.0, rho=0.0)
    x, y = ref.X[:4] + 1, ref.Y[2:6]
    want_loss, want = plain(PARAMS, partial(per_class_loss, x=x, y=y))
    for loss, grads in (fn(PARAMS, x, y), fn(PARAMS, x, y=y), fn(PARAMS, y=y, x=x)):
        np.testing.assert_allclose(loss, want_loss, rtol=1e-6)
        assert_same(grads, want)


@pytest.mark.parametrize("weights", [1.0, FOCAL], ids=["equal", "focal"])
def test_aux_comes_from_the_clean_pass(weights):
    def with_aux(params, scale):
        return per_class_loss(params), {"kernel": scale * params["head"]["kernel"]}

    fn = jax.jit(engine(with_aux, weights, rho=0.3, has_aux=True))
    (loss, aux), grads = fn(PARAMS, 2.0)
    np.testing.assert_array_equal(aux["kernel"], 2 * PARAMS["head"]["kernel"])
    want_loss, want = engine(per_class_loss, weights, rho=0.3)(PARAMS)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-6)
    assert_same(grads, want)


@pytest.mark.parametrize("weights", [1.0, FOCAL], ids=["equal", "focal"])
def test_the_loss_function_runs_twice(weights):
    runs = []

    def counted(params):
        jax.debug.callback(lambda: runs.append(1))
        return per_class_loss(params)

    jax.block_until_ready(jax.jit(engine(counted, weights, rho=0.3))(PARAMS))
    jax.effects_barrier()
    assert len(runs) == 2


@pytest.mark.parametrize(
    ("weights", "backwards"), [(1.0, 2), (np.full(4, 0.5), 2), (FOCAL, 3)]
)
def test_equal_weights_need_two_backward_passes_and_others_three(weights, backwards):
    runs = []

    @jax.custom_vjp
    def counted(losses):
        return losses

    def backward(_, cotangent):
        jax.debug.callback(lambda: runs.append(1))
        return (cotangent,)

    counted.defvjp(lambda losses: (losses, None), backward)
    fn = jax.jit(engine(lambda p: counted(per_class_loss(p)), weights, rho=0.3))
    jax.block_until_ready(fn(PARAMS))
    jax.effects_barrier()
    assert len(runs) == backwards


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("weights", [1.0, FOCAL], ids=["equal", "focal"])
def test_gradients_have_the_dtype_of_the_parameters(dtype, weights):
    params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    loss, grads = jax.jit(engine(per_class_loss, weights, rho=0.3))(params)
    assert loss.dtype == jnp.float32 and loss.shape == ()
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(grads))
    _, want = engine(per_class_loss, weights, rho=0.3)(PARAMS)
    assert_same(grads, want, 0.1)


def test_rho_and_lam_and_weights_may_be_traced():
    @counted
    def traced(weights, rho, lam):
        return engine(per_class_loss, weights, rho=rho, lam=lam)(PARAMS)[1]

    step = jax.jit(traced)
    for rho, lam in ((0.3, 0.8), (0.1, 1.2)):
        want = ref.focal_sam(FULL, ref.COUNTS, rho=rho, gamma=2.5, lam=lam).gradient
        assert_same(step(FOCAL, rho, lam), want)
    assert traced.traces == 1


def test_vmap_over_batches_is_a_loop_over_batches():
    fn = engine(per_class_loss, FOCAL, rho=0.3)
    x, y = ref.X.reshape(2, 5, -1), ref.Y.reshape(2, 5)
    _, together = jax.jit(jax.vmap(fn, in_axes=(None, 0, 0)))(PARAMS, x, y)
    alone = jax.jit(fn)
    for i in range(2):
        _, want = alone(PARAMS, x[i], y[i])
        assert_same(jax.tree.map(lambda leaf, i=i: leaf[i], together), want)
