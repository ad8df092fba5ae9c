"""Tests of CC-SAM's gradient: a list of functions, vmapped, unrolled, or a loop."""

from contextlib import contextmanager
from functools import cache, partial

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
    PARAMS,
    assert_same,
    each_in_a_dtype,
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
from focal_sam_jax import _methods
from focal_sam_jax._methods import after

RADII = np.array(ref.radii(ref.COUNTS, 0.3))
FORMS = ["list", "beside", "cpu", "gpu"]
every_form = pytest.mark.parametrize("form", FORMS)
engine = fsam.class_conditional_value_and_grad

some_radii = arrays(np.float64, ref.CLASSES, elements=st.floats(0, 1, width=16))


@contextmanager
def backend(form):
    """Sets the backend and limit that select the form."""
    with pytest.MonkeyPatch.context() as patch:
        name = "gpu" if form == "gpu" else "cpu"
        patch.setattr(jax, "default_backend", lambda: name)
        patch.setattr(_methods, "_FEW", 1.0 if form == "beside" else 0.0)
        yield


@cache
def compiled(form, head_only):
    def value_and_grad(params, y, radii, alpha):
        f = one_by_one(y) if form == "list" else partial(per_class_loss, y=y)
        mask = HEAD_ONLY if head_only else None
        return engine(f, radii, alpha=alpha, mask=mask)(params)

    return jax.jit(value_and_grad)


def compute(form, params, y=ref.Y, radii=RADII, alpha=1.0, head_only=False):
    """Loss and gradient in one of the forms."""
    with backend(form):
        return compiled(form, head_only)(params, y, jnp.asarray(radii, float), alpha)


def loops_in(function, *args):
    return str(jax.make_jaxpr(function)(*args)).count("scan[")


# --- the oracle -----------------------------------------------------------------------


@pytest.mark.by_default(x64=(True,))
@every_form
@pytest.mark.parametrize("head_only", [False, True], ids=["all", "head"])
@in_both_precisions
def test_agrees_with_the_oracle(form, head_only, x64, tolerance):
    mask = HEAD_ONLY if head_only else None
    want = ref.cc_sam(FULL, ref.COUNTS, rho=0.3, alpha=0.6, mask=mask)
    with jax.enable_x64(x64):
        loss, grads = compute(form, to_jax(FULL), alpha=0.6, head_only=head_only)
    assert_same(grads, want.gradient, tolerance)
    exact = sum(ref.class_loss(FULL, c) for c in range(ref.CLASSES))
    np.testing.assert_allclose(loss, exact, rtol=tolerance)


@few_examples
@given(some_seed, some_labels, some_radii, st.floats(0, 1))
def test_the_forms_agree_for_any_labels_and_radii(seed, labels, radii, alpha):
    with jax.enable_x64(True):
        list_, *others = all_forms(ref.parameters(seed), labels, radii, alpha)
    for loss, grads in others:
        np.testing.assert_allclose(loss, list_[0], rtol=1e-12)
        assert_same(grads, list_[1], 1e-9)


@jax.jit
def all_forms(params, labels, radii, alpha):
    return [compute(form, params, labels, radii, alpha=alpha) for form in FORMS]


@pytest.mark.by_default(form=("cpu",))
@every_form
def test_the_engine_is_the_transform(form):
    _, got = compute(form, PARAMS, alpha=0.7)
    tx = fsam.cc_sam(ref.COUNTS, rho=0.3, alpha=0.7)
    f = one_by_one() if form == "list" else per_class_loss

    def update(params):
        grads = plain(params)[1]
        return tx.update(grads, tx.init(params), params, per_class_loss_fn=f)

    with backend(form):
        want, state = jax.jit(update)(PARAMS)
    assert_same(got, want)
    exact = ref.cc_sam(FULL, ref.COUNTS, rho=0.3, alpha=0.7)
    np.testing.assert_allclose(state.info.ascent_norm, exact.ascent_norm, rtol=1e-5)
    np.testing.assert_allclose(state.info.sharpness, exact.sharpness, rtol=1e-4)


# --- identities and corners -----------------------------------------------------------


@every_form
def test_one_class_is_sam(form):
    y = np.zeros_like(ref.Y)

    def f(params):
        return per_class_loss(params, y=y, classes=1)

    functions = [lambda p: f(p)[0]] if form == "list" else f
    with backend(form):
        _, got = engine(functions, fsam.cc_sam_radii([7], 0.3))(PARAMS)
    _, want = fsam.sharpness_aware_value_and_grad(f, 1.0, rho=0.3)(PARAMS)
    assert_same(got, want)


@pytest.mark.by_default(form=("cpu",))
@every_form
@pytest.mark.parametrize("zero", [{"alpha": 0.0}, {"radii": np.zeros(4)}])
def test_the_plain_gradient_to_the_bit(form, zero):
    both = jax.jit(lambda p: (compute(form, p, **zero), plain(p)))
    (loss, grads), (want_loss, want) = both(PARAMS)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-6)
    if form == "list":  # sums its classes in a different order
        assert_same(grads, want, 1e-6)
    else:
        jax.tree.map(np.testing.assert_array_equal, grads, want)


@each_in_a_dtype(FORMS, "cpu")
def test_a_zero_gradient_gives_a_zero_gradient(name, dtype):
    def flat(params, y=None, classes=4):
        return 0 * params.astype(jnp.float32).sum() * jnp.arange(4.0) + 1

    f = [lambda p, c=c: flat(p)[c] for c in range(4)] if name == "list" else flat
    with backend(name):
        loss, grads = jax.jit(engine(f, RADII))(jnp.ones(3, dtype))
    assert loss == 4 and grads.dtype == dtype
    np.testing.assert_array_equal(grads, jnp.zeros(3, dtype))


@every_form
def test_an_absent_class_takes_no_part(form):
    y = np.where(ref.Y == 3, 0, ref.Y)
    _, got = compute(form, PARAMS, y)
    changed = np.where(np.arange(4) == 3, 0.9, RADII)
    _, want = compute(form, PARAMS, y, changed)
    assert_same(got, want, 1e-6)


@pytest.mark.parametrize("form", ["cpu", "gpu"])
def test_aux_comes_from_the_clean_pass(form):
    def with_aux(params, scale):
        return per_class_loss(params), scale * params["head"]["kernel"]

    with backend(form):
        fn = jax.jit(engine(with_aux, RADII, has_aux=True))
        (loss, aux), grads = fn(PARAMS, 2.0)
    np.testing.assert_array_equal(aux, 2 * PARAMS["head"]["kernel"])
    want_loss, want = compute(form, PARAMS)
    np.testing.assert_allclose(loss, want_loss, rtol=1e-6)
    assert_same(grads, want)


@pytest.mark.slow
@each_in_a_dtype(FORMS, "cpu")
def test_gradients_have_the_dtype_of_the_parameters(name, dtype):
    params = jax.tree.map(lambda p: p.astype(dtype), PARAMS)
    loss, grads = compute(name, params)
    assert loss.dtype == jnp.float32
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(grads))
    assert_same(grads, compute(name, PARAMS)[1], 0.1)


# --- cost -----------------------------------------------------------------------------


def wide_loss(params, y, classes):
    """Computes losses of many classes with one cheap layer."""
    losses = jnp.sum(jnp.tanh(jnp.ones((64, 128)) @ params) ** 2, axis=1)
    return fsam.per_class_losses(losses, y, classes)


def wide(classes):
    y = jnp.arange(64) % classes
    fn = jax.jit(engine(partial(wide_loss, y=y, classes=classes), jnp.ones(classes)))
    return fn, jnp.eye(128)


@pytest.mark.parametrize(("form", "loops"), [("cpu", 0), ("gpu", 1)])
def test_the_form_follows_the_backend(form, loops):
    with backend(form):
        assert loops_in(*wide(4)) == loops


def test_many_classes_are_a_loop_on_the_cpu_too():
    limit = _methods._MAX_UNROLLED_GROUPS
    assert loops_in(*wide(limit)) == 0
    assert loops_in(*wide(limit + 1)) == 1


@pytest.mark.parametrize("present", [1, 2, 4])
def test_the_loop_skips_absent_classes_when_it_runs(present):
    runs = []

    def observed(params, y):
        jax.debug.callback(lambda: runs.append(1))
        return per_class_loss(params, y=y)

    with backend("gpu"):
        fn = jax.jit(engine(observed, RADII))
        jax.block_until_ready(fn(PARAMS, jnp.asarray(ref.Y) % present))
    jax.effects_barrier()
    # Once at theta, then per class present once at theta and once at theta + epsilon.
    assert len(runs) == 1 + 2 * present


@pytest.mark.parametrize("mask", [None, True])
def test_what_the_loop_skips_keeps_its_plain_gradient(mask):
    def losses(params):  # the second is zero, its gradient not
        return jnp.stack([params[0] ** 2, params[1]])

    with backend("gpu"):
        fn = jax.jit(engine(losses, np.full(2, 0.5), mask=mask))
        _, got = fn(jnp.array([1.0, 0.0]))
    np.testing.assert_allclose(got, [2 * (1 + 0.5), 1])


def test_the_classes_present_may_change_without_compiling():
    with backend("gpu"):
        traced = counted(engine(per_class_loss, RADII))
        fn = jax.jit(traced)
        for present in (4, 2, 1):
            y = jnp.asarray(ref.Y) % present
            _, got = fn(PARAMS, y=y)
            want = ref.cc_sam(FULL, ref.COUNTS, rho=0.3, alpha=1.0, y=np.asarray(y))
            assert_same(got, want.gradient)
    assert traced.traces == 1


def test_gradients_of_what_does_not_climb_are_not_computed():
    def flops(head_only):
        with backend("cpu"):
            arguments = PARAMS, ref.Y, jnp.asarray(RADII, float), 1.0
            program = compiled("cpu", head_only).lower(*arguments).compile()
        return program.cost_analysis()["flops"]

    assert 0 < flops(head_only=True) <= 0.85 * flops(head_only=False)


def test_side_by_side_what_does_not_climb_is_computed_once_for_all_groups():
    classes, width = 8, 60
    params = {"body": jnp.ones((width, width)) / width, "head": jnp.ones((width, 2))}
    x, y = jnp.ones((64, width)), jnp.arange(64) % classes

    def losses(params):
        h = jnp.tanh(x @ params["body"])
        return fsam.per_class_losses((h @ params["head"]).sum(1), y, classes)

    def flops(function):
        return jax.jit(function).lower(params).compile().cost_analysis()["flops"]

    mask = {"body": False, "head": True}
    fn = engine(losses, np.full(classes, 0.1), mask=mask)
    plain = flops(jax.value_and_grad(lambda p: losses(p).sum()))
    assert 0 < flops(fn) <= 3 * plain
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_methods, "_FEW", 0.0)
        assert flops(engine(losses, np.full(classes, 0.1), mask=mask)) >= 5 * plain


def test_memory_of_the_loop_does_not_grow_with_the_classes():
    def temporary(classes):
        fn, params = wide(classes)
        return fn.lower(params).compile().memory_analysis().temp_size_in_bytes

    with backend("gpu"):
        few, many = temporary(4), temporary(64)
    one_gradient = 128 * 128 * 4
    assert few > one_gradient
    # Growth with the classes would add 60 gradients; the losses are small.
    assert many - few < one_gradient


def test_programs_of_the_loop_do_not_grow_with_the_classes():
    with backend("gpu"):
        sizes = [len(str(jax.make_jaxpr(fn)(p))) for fn, p in (wide(4), wide(64))]
    assert sizes[1] < 1.1 * sizes[0]


# --- the order of passes --------------------------------------------------------------


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
    """XLA must not remove the pass that ``after`` waits for."""

    def waiting(x):
        return after({"a": jnp.sin(x)}, 0.1)

    compiled = jax.jit(waiting).lower(jnp.ones(3)).compile()
    assert "sine" in compiled.as_text()
