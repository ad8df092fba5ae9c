"""Tests of the transforms: the oracle's numbers, schedules, and exact identities."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from oracle_jax import (
    FULL,
    HEAD_ONLY,
    MAKERS,
    assert_same,
    few_examples,
    in_both_precisions,
    per_class_loss,
    some_labels,
    some_params,
    to_jax,
    update,
)
from tracing import counted

import focal_sam_jax as fsam

ONE_ARRAY = HEAD_ONLY | {"head": {"kernel": True, "bias": False}}
ADAPTIVE = ["sam", "imbsam", "focal_sam", "sharpness_aware"]
every_method = pytest.mark.parametrize("name", MAKERS)
some_counts = arrays(np.int32, ref.CLASSES, elements=st.integers(1, 5000))
some_rho = st.floats(0.001, 1.0)


def loss_of(labels=ref.Y, ids=None, classes=ref.CLASSES):
    return partial(per_class_loss, y=labels, ids=ids, classes=classes)


# --- the oracle -----------------------------------------------------------------------


def test_the_oracle_differentiates_by_hand_what_jax_differentiates(x64):
    want = jax.jit(jax.jacrev(per_class_loss))(to_jax(FULL))
    for c in range(ref.CLASSES):
        of_class = jax.tree.map(lambda jacobian, c=c: jacobian[c], want)
        assert_same(ref.class_gradient(FULL, c), of_class, 1e-13)


@pytest.mark.by_default(mask=(None,), tolerance=(1e-12,))
@pytest.mark.parametrize(
    ("name", "adaptive"),
    [*((n, {}) for n in MAKERS), *((n, {"adaptive": True}) for n in ADAPTIVE)],
    ids=[*MAKERS, *(f"adaptive_{name}" for name in ADAPTIVE)],
)
@pytest.mark.parametrize("mask", [None, HEAD_ONLY], ids=["all", "head"])
@in_both_precisions
def test_agrees_with_the_oracle(name, adaptive, mask, x64, tolerance):
    make, oracle = MAKERS[name]
    options = {"mask": mask, **adaptive}
    want = oracle(params=FULL, rho=0.3, **options)
    with jax.enable_x64(x64):
        tx = make(rho=0.3, **options)
        updates, state = jax.jit(lambda p: update(tx, p))(to_jax(FULL))
    assert_same(updates, want.gradient, tolerance)
    # The state is float32 in both precisions.
    np.testing.assert_allclose(state.info.ascent_norm, want.ascent_norm, rtol=1e-5)
    np.testing.assert_allclose(state.info.sharpness, want.sharpness, rtol=1e-4)


@pytest.mark.by_default(name=("focal_sam", "cc_sam"))
@every_method
@pytest.mark.parametrize(
    ("mask", "full"),
    [
        ({"body": False, "head": True}, HEAD_ONLY),
        ({"body": False, "head": {"kernel": True, "bias": False}}, ONE_ARRAY),
        (lambda params: {"body": False, "head": True}, HEAD_ONLY),
        (lambda params: jax.tree.map(lambda p: p.ndim == 2, params), None),
        (True, jax.tree.map(lambda p: True, FULL)),
    ],
    ids=["prefix", "mixed prefix", "function", "function of leaves", "one bool"],
)
def test_a_mask_may_be_a_prefix_or_a_function(name, mask, full):
    full = jax.tree.map(lambda p: p.ndim == 2, FULL) if full is None else full
    make, oracle = MAKERS[name]
    updates, state = update(make(rho=0.3, mask=mask), to_jax(FULL))
    want = oracle(params=FULL, rho=0.3, mask=full)
    assert_same(updates, want.gradient, 1e-5)
    np.testing.assert_allclose(state.info.ascent_norm, want.ascent_norm, rtol=1e-5)


# --- rho, state, aux ------------------------------------------------------------------


@pytest.mark.by_default(name=("focal_sam", "cc_sam"))
@every_method
def test_a_schedule_of_rho_runs_on_the_counter_in_the_state(name):
    make, oracle = MAKERS[name]
    tx = make(rho=optax.linear_schedule(0.0, 0.4, 2))
    params = to_jax(FULL)

    @counted
    def traced(state):
        grads = jax.grad(lambda p: per_class_loss(p).sum())(params)
        return tx.update(grads, state, params, per_class_loss_fn=per_class_loss)

    step, state = jax.jit(traced), tx.init(params)
    for count, rho in enumerate([0.0, 0.2, 0.4, 0.4]):
        assert state.count == count
        updates, state = step(state)
        assert_same(updates, oracle(params=FULL, rho=rho).gradient, 1e-5)
    assert traced.traces == 1


@pytest.mark.parametrize("head", [0, 1, 0.0, optax.constant_schedule(0)])
def test_the_head_and_the_tail_of_sse_sam_and_the_switch(head):
    tx = fsam.sse_sam(
        ref.COUNTS, head_rho=head, tail_rho=0.4, tail_threshold=25, switch_step=2
    )
    params, f = to_jax(FULL), per_class_loss
    state = tx.init(params)
    grads = jax.grad(lambda p: f(p).sum())(params)
    step = jax.jit(lambda s: tx.update(grads, s, params, per_class_loss_fn=f))
    for count in range(4):
        rho = 1.0 if head == 1 and count < 2 else 0.0
        updates, state = step(state)
        want = ref.sse_sam(
            FULL, ref.COUNTS, head_rho=rho, tail_rho=0.4, tail_threshold=25
        )
        assert_same(updates, want.gradient, 1e-5)


def test_from_the_switch_on_sse_sam_is_imbsam():
    params, f = to_jax(FULL), per_class_loss
    sse = fsam.sse_sam(
        ref.COUNTS, head_rho=0.2, tail_rho=0.4, tail_threshold=25, switch_step=0
    )
    got, _ = update(sse, params, f)
    want, _ = update(fsam.imbsam(ref.COUNTS, rho=0.4, tail_threshold=25), params, f)
    assert_same(got, want, 1e-5)


@pytest.mark.by_default(name=("focal_sam", "cc_sam"))
@every_method
def test_a_traced_rho_compiles_once(name):
    make, oracle = MAKERS[name]
    traced = counted(lambda rho, p: update(make(rho=rho), p)[0])
    step = jax.jit(traced)
    for rho in (0.1, 0.3):
        want = oracle(params=FULL, rho=rho).gradient
        assert_same(step(rho, to_jax(FULL)), want, 1e-5)
    assert traced.traces == 1


@every_method
def test_the_state_is_readable_from_any_optimizer_state(name):
    make, oracle = MAKERS[name]
    tx = optax.chain(optax.clip(1e3), make(rho=0.3), optax.adam(1e-3))
    _, state = update(tx, to_jax(FULL))
    want = oracle(params=FULL, rho=0.3)
    sharpness = optax.tree.get(state, "sharpness")
    np.testing.assert_allclose(sharpness, want.sharpness, rtol=1e-4)
    norm = optax.tree.get(state, "ascent_norm")
    np.testing.assert_allclose(norm, want.ascent_norm, rtol=1e-5)
    (found,) = optax.tree.get_all_with_path(state, "info")
    assert isinstance(found[1], fsam.SharpnessInfo)


@every_method
def test_aux_is_dropped_and_changes_nothing(name):
    make, _ = MAKERS[name]
    f, params = per_class_loss, to_jax(FULL)
    want, _ = update(make(rho=0.3), params, f)
    grads = jax.grad(lambda p: f(p).sum())(params)
    tx = make(rho=0.3, has_aux=True)
    got, _ = tx.update(
        grads, tx.init(params), params, per_class_loss_fn=lambda p: (f(p), {"a": 1})
    )
    assert_same(got, want, 1e-6)


@every_method
def test_the_correction_is_added_to_whatever_updates_come_in(name):
    make, _ = MAKERS[name]
    tx, f, params = make(rho=0.3), per_class_loss, to_jax(FULL)
    grads = jax.grad(lambda p: f(p).sum())(params)
    state = tx.init(params)
    whole, _ = tx.update(grads, state, params, per_class_loss_fn=f)
    zero = jax.tree.map(jnp.zeros_like, grads)
    correction, _ = tx.update(zero, state, params, per_class_loss_fn=f)
    assert_same(whole, ref.add(grads, correction), 1e-6)


# --- identities -----------------------------------------------------------------------


def updates_of(tx, params, f):
    return update(tx, params, f)[0]


@jax.jit
def sam_and_those_that_are_sam(params, labels, counts, rho):
    f, one = loss_of(labels), loss_of(labels, jnp.zeros_like(labels), 1)
    return updates_of(fsam.sam(rho=rho), params, f), {
        "focal_sam": updates_of(
            fsam.focal_sam(counts, rho=rho, gamma=0, lam=1), params, f
        ),
        "imbsam": updates_of(
            fsam.imbsam(counts, rho=rho, tail_threshold=counts.max() + 1), params, f
        ),
        "cc_sam": updates_of(fsam.cc_sam([7], rho=rho), params, one),
    }


@few_examples
@given(some_params, some_labels, some_counts, some_rho)
def test_what_reduces_to_sam(params, labels, counts, rho):
    with jax.enable_x64(True):
        double = jax.tree.map(np.float64, params)
        want, others = sam_and_those_that_are_sam(double, labels, counts, rho)
    for name, got in others.items():
        assert ref.error(got, want) <= 1e-9, name


@jax.jit
def plain_and_those_that_are_plain(params, labels, counts, rho):
    f = loss_of(labels)
    return jax.grad(lambda p: f(p).sum())(params), [
        updates_of(fsam.focal_sam(counts, rho=rho, lam=0), params, f),
        updates_of(fsam.focal_sam(counts, rho=0.0), params, f),
        updates_of(fsam.sam(rho=0.0), params, f),
        updates_of(fsam.imbsam(counts, rho=0.0), params, f),
        updates_of(fsam.imbsam(counts, rho=rho, tail_threshold=0), params, f),
        updates_of(fsam.cc_sam(counts, rho=0.0), params, f),
        updates_of(fsam.cc_sam(counts, rho=rho, alpha=0), params, f),
    ]


@few_examples
@given(some_params, some_labels, some_counts, some_rho)
def test_what_reduces_to_the_plain_gradient_does_so_to_the_bit(
    params, labels, counts, rho
):
    want, others = plain_and_those_that_are_plain(params, labels, counts, rho)
    for got in others:
        jax.tree.map(np.testing.assert_array_equal, got, want)


@jax.jit
def class_aware(params, labels, ids, counts, threshold, rho):
    f = loss_of(labels, ids)
    return [
        updates_of(fsam.focal_sam(counts, rho=rho, gamma=2.0), params, f),
        updates_of(fsam.imbsam(counts, rho=rho, tail_threshold=threshold), params, f),
        updates_of(fsam.cc_sam(counts, rho=rho), params, f),
    ]


@few_examples
@given(
    some_params, some_labels, some_counts, some_rho, st.permutations(range(ref.CLASSES))
)
def test_names_of_classes_do_not_matter(params, labels, counts, rho, order):
    order = np.array(order)
    with jax.enable_x64(True):
        double = jax.tree.map(np.float64, params)
        here = class_aware(double, labels, labels, counts, 100, rho)
        ids = np.argsort(order).astype(np.int32)[labels]
        there = class_aware(double, labels, ids, counts[order], 100, rho)
    for got, want in zip(there, here, strict=True):
        assert_same(got, want, 1e-9)


@few_examples
@given(some_params, some_labels, some_counts, some_rho, st.integers(1, 10_000))
def test_only_ratios_of_counts_matter(params, labels, counts, rho, factor):
    # For ImbSAM the threshold scales too; for CC-SAM, n - 1 scales, not n.
    with jax.enable_x64(True):
        double = jax.tree.map(np.float64, params)
        counts = counts.astype(np.float64) + 1
        here = class_aware(double, labels, labels, counts, 100.0, rho)
        more = class_aware(double, labels, labels, counts * factor, 100.0 * factor, rho)
        shifted = (counts - 1) * factor + 1
        more[2] = class_aware(double, labels, labels, shifted, 100.0, rho)[2]
    for got, want in zip(more, here, strict=True):
        assert_same(got, want, 1e-9)
