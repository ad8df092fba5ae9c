"""Tests of the approximations: against loops, and where they are exact."""

from functools import cache, partial

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
    few_examples,
    gradient,
    in_both_precisions,
    per_class_loss,
    some_labels,
    some_params,
    to_jax,
)

import focal_sam_jax as fsam

ROWS = [slice(0, 6), slice(4, 10), slice(0, 10)]
FOCAL = [(1 - n / 100) ** 2.5 for n in ref.COUNTS]
TAIL = [0.0, 0.0, 1.0, 1.0]
LEARNING_RATE = 0.3


def batch(step):
    """Returns the batch of a step; each step has another."""
    rows = ROWS[step % len(ROWS)]
    return ref.X[rows], ref.Y[rows]


def loss_of(x=ref.X, y=ref.Y):
    return partial(per_class_loss, x=x, y=y)


def run(tx, steps, params=FULL, compiled=True):
    """Returns the gradient and the state's info of each gradient descent step."""
    maybe_jit = jax.jit if compiled else lambda function: function

    @maybe_jit
    def step(params, state, x, y):
        f = loss_of(x, y)
        updates, state = tx.update(
            gradient(f, params), state, params, per_class_loss_fn=f
        )
        moved = jax.tree.map(lambda p, u: p - LEARNING_RATE * u, params, updates)
        return updates, moved, state

    params = to_jax(params)
    state, seen = tx.init(params), []
    for number in range(steps):
        updates, params, state = step(params, state, *batch(number))
        seen.append((updates, optax.tree.get(state, "info")))
    return seen


def assert_same_runs(got, want, tolerance=1e-5):
    assert len(got) == len(want)
    for (updates, info), step in zip(got, want, strict=True):
        assert ref.error(updates, step.gradient) <= tolerance
        # The state is float32 in both precisions.
        np.testing.assert_allclose(info.ascent_norm, step.ascent_norm, rtol=1e-5)
        np.testing.assert_allclose(info.sharpness, step.sharpness, rtol=1e-3, atol=1e-7)


# --- the oracles ----------------------------------------------------------------------


def reused(weights, lam, rho, steps, **options):
    """Runs Algorithm 1 of Focal-SAM, but ascends along the last perturbed gradient."""
    weights = np.broadcast_to(weights, ref.CLASSES)
    params, uphill, found = FULL, ref.tree_map(np.zeros_like, FULL), []
    for number in range(steps):
        x, y = batch(number)
        a = lam * weights
        epsilon, norm = ref.ascent(params, uphill, rho, **options)
        there = ref.add(params, epsilon)
        before, _ = ref.weighted(params, weights, x, y)
        after, uphill = ref.weighted(there, weights, x, y)
        _, at_home = ref.weighted(params, 1 - a, x, y)
        _, climbed = ref.weighted(there, a, x, y)
        found.append(ref.Step(ref.add(at_home, climbed), norm, after - before))
        params = ref.add(params, found[-1].gradient, -LEARNING_RATE)
    return found


def looked(method, every, alpha, steps):
    """Runs LookSAM around a method of the oracle."""
    params, found = FULL, []
    for number in range(steps):
        x, y = batch(number)
        _, plain = ref.weighted(params, np.ones(ref.CLASSES), x, y)
        g = ref.flat(plain)
        if number % every == 0:
            exact = method(params, x=x, y=y)
            along = ref.flat(exact.gradient) @ g / (g @ g)
            across = ref.add(exact.gradient, plain, -along)
            found.append(exact)
        else:
            length = np.linalg.norm(g) / np.linalg.norm(ref.flat(across))
            mixed = ref.add(plain, across, alpha * length)
            found.append(found[-1]._replace(gradient=mixed))
        params = ref.add(params, found[-1].gradient, -LEARNING_RATE)
    return found


@pytest.mark.by_default(x64=(True,))
@pytest.mark.parametrize(
    ("weights", "lam", "options"),
    [
        ([1.0] * 4, 1.0, {}),
        (1.0, 1.0, {}),
        (1.0, 0.6, {}),
        (TAIL, 1.0, {}),
        (FOCAL, 0.8, {}),
        (FOCAL, 0.0, {}),
        (FOCAL, 0.8, {"adaptive": True}),
        (FOCAL, 0.8, {"mask": HEAD_ONLY}),
    ],
    ids=[
        "sam",
        "one weight",
        "weak sam",
        "imbsam",
        "focal_sam",
        "plain",
        "adaptive",
        "head",
    ],
)
@in_both_precisions
def test_reuse_ascent_agrees_with_the_loop(weights, lam, options, x64, tolerance):
    with jax.enable_x64(x64):
        got = run(fsam.reuse_ascent(weights, rho=0.3, lam=lam, **options), 4)
    assert_same_runs(got, reused(weights, lam, 0.3, 4, **options), tolerance)


@pytest.mark.by_default(name=("focal_sam", "cc_sam"), every=(2,), x64=(True,))
@pytest.mark.parametrize(
    ("name", "every"), [("sam", 3), ("focal_sam", 2), ("focal_sam", 3), ("cc_sam", 2)]
)
@in_both_precisions
def test_looksam_agrees_with_the_loop(name, every, x64, tolerance):
    make, method = (partial(f, rho=0.3) for f in MAKERS[name])
    with jax.enable_x64(x64):
        got = run(fsam.looksam(make(), every=every, alpha=0.6), 6)
    # The part orthogonal to the plain gradient is a difference, and loses digits.
    assert_same_runs(got, looked(method, every, 0.6, 6), 10 * tolerance)


# --- where they are exact -------------------------------------------------------------


def assert_equal_runs(got, want, tolerance=1e-6):
    for (updates, _), (wanted, _) in zip(got, want, strict=True):
        assert ref.error(updates, wanted) <= tolerance


@cache
def plain(steps):
    """Runs steps with the plain gradient."""
    return run(fsam.sam(rho=0.0), steps)


def test_without_a_radius_both_are_plain():
    focal = fsam.focal_sam(ref.COUNTS, rho=0.0)
    assert_equal_runs(run(fsam.reuse_ascent(FOCAL, rho=0.0, lam=0.8), 4), plain(4))
    assert_equal_runs(run(fsam.looksam(focal, every=2), 4), plain(4))


def test_without_alpha_the_steps_between_are_plain():
    tx = fsam.looksam(fsam.sam(rho=0.3), every=10, alpha=0.0)
    f, params = loss_of(), to_jax(FULL)
    grads = gradient(f, params)
    _, state = tx.update(grads, tx.init(params), params, per_class_loss_fn=f)
    got, _ = tx.update(grads, state, params, per_class_loss_fn=f)
    jax.tree.map(np.testing.assert_array_equal, got, grads)


def test_where_gradients_are_constant_both_are_exact():
    slopes = jnp.arange(1.0, 5.0)

    def f(params):
        return slopes * sum(p.sum() for p in jax.tree.leaves(params))

    params = to_jax(FULL)
    grads = gradient(f, params)
    exact = fsam.focal_sam(ref.COUNTS, rho=0.3, lam=0.8)
    want, _ = exact.update(grads, exact.init(params), params, per_class_loss_fn=f)
    for tx in (fsam.reuse_ascent(FOCAL, rho=0.3, lam=0.8), fsam.looksam(exact)):
        step = jax.jit(partial(tx.update, params=params, per_class_loss_fn=f))
        state = tx.init(params)
        for _ in range(3):
            got, state = step(grads, state)
            assert ref.error(got, want) <= 1e-6


@pytest.mark.by_default(dtype=(jnp.bfloat16,))
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("curvature", [0.1, 3.0])
def test_looksam_does_not_blow_up_rounding(dtype, curvature):
    # With one parameter, the part orthogonal to the gradient is only rounding error.
    tx = fsam.looksam(fsam.sam(rho=0.7), every=2)
    f = lambda p: 0.5 * curvature * (p.astype(jnp.float32) ** 2)  # noqa: E731
    params = jnp.array([0.3], dtype)
    grads = gradient(f, params)
    _, state = tx.update(grads, tx.init(params), params, per_class_loss_fn=f)
    got, _ = tx.update(grads, state, params, per_class_loss_fn=f)
    np.testing.assert_array_equal(got, grads)


# --- properties -----------------------------------------------------------------------

some_weights = arrays(np.float32, ref.CLASSES, elements=st.floats(0, 1, width=32))


@jax.jit
def three_steps(params, labels, weights, size):
    """Returns updates and states of both, the gradient, and LookSAM's ``sideways``."""

    def f(p):
        return size * loss_of(ref.X, labels)(p)

    grads = gradient(f, params)
    found = []
    for tx in (
        fsam.reuse_ascent(weights, rho=0.3, lam=0.8),
        fsam.looksam(fsam.focal_sam(ref.COUNTS, rho=0.3), every=2),
    ):
        state = tx.init(params)
        for _ in range(3):
            updates, state = tx.update(grads, state, params, per_class_loss_fn=f)
            found.append((updates, state))
    return found, grads, state.sideways


@few_examples
@given(some_params, some_labels, some_weights, st.sampled_from([0.0, 1e-6, 1.0, 1e4]))
def test_whatever_comes_updates_are_finite_and_what_is_kept_is_across(
    params, labels, weights, size
):
    found, grads, sideways = three_steps(params, labels, weights, size)
    for leaf in jax.tree.leaves(found):
        assert np.all(np.isfinite(leaf))
    g, v = ref.flat(grads), ref.flat(sideways)
    assert abs(g @ v) <= 0.1 * np.linalg.norm(g) * np.linalg.norm(v)
    if np.linalg.norm(v) > 1e-3 * np.linalg.norm(g):
        assert abs(g @ v) <= 1e-3 * np.linalg.norm(g) * np.linalg.norm(v)


@few_examples
@given(some_params, some_labels)
def test_without_weight_on_any_class_reusing_is_plain(params, labels):
    got, _ = three_steps(params, labels, np.zeros(ref.CLASSES, np.float32), 1.0)[:2]
    want = gradient(loss_of(ref.X, labels), params)
    for updates, _ in got[:3]:
        for leaf, wanted in zip(*map(jax.tree.leaves, (updates, want)), strict=True):
            np.testing.assert_allclose(leaf, wanted, rtol=1e-5, atol=1e-6)


# --- state ----------------------------------------------------------------------------


def test_the_incoming_updates_are_dropped():
    tx, f, params = fsam.reuse_ascent(FOCAL, rho=0.3), loss_of(), to_jax(FULL)
    update = partial(
        tx.update, state=tx.init(params), params=params, per_class_loss_fn=f
    )
    want, _ = update(gradient(f, params))
    got, _ = update(jax.tree.map(lambda p: jnp.full_like(p, jnp.nan), params))
    jax.tree.map(np.testing.assert_array_equal, got, want)


@pytest.mark.by_default(bad=(jnp.inf,))
@pytest.mark.parametrize(
    "tx", [fsam.reuse_ascent(rho=0.3), fsam.looksam(fsam.sam(rho=0.3), every=2)]
)
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_what_was_not_finite_is_not_kept(tx, bad):
    params = to_jax(FULL)

    def broken(p):
        return bad * loss_of()(p)

    def update(f, state):
        return tx.update(gradient(f, params), state, params, per_class_loss_fn=f)

    updates, state = update(broken, tx.init(params))
    assert not np.all(np.isfinite(ref.flat(updates)))
    updates, _ = update(loss_of(), state)
    assert ref.error(updates, gradient(loss_of(), params)) <= 1e-6


def test_a_schedule_of_rho_follows_the_counter():
    seen = []

    def rho(count):
        seen.append(count)
        return 0.1 * (count + 1)

    run(fsam.reuse_ascent(rho=rho), 3, compiled=False)
    assert seen == [0, 1, 2]


@pytest.mark.slow
def test_under_looksam_a_schedule_of_rho_counts_exact_steps():
    def rho(count):
        return 0.1 * (count + 1)

    *_, third = run(fsam.looksam(fsam.sam(rho=rho), every=2), 3)
    radii = iter([0.1, 0.2])

    def method(params, x, y):
        return ref.sam(params, rho=next(radii), x=x, y=y)

    *_, want = looked(method, every=2, alpha=0.7, steps=3)
    assert_same_runs([third], [want])


@pytest.mark.slow
def test_in_a_chain_the_optimizer_sees_the_approximate_gradient():
    for tx in (fsam.reuse_ascent(FOCAL, rho=0.3), fsam.looksam(fsam.sam(rho=0.3))):
        alone = run(tx, 1)
        params, f = to_jax(FULL), loss_of(*batch(0))
        chain = optax.chain(tx, optax.sgd(0.5))
        updates, _ = chain.update(
            gradient(f, params), chain.init(params), params, per_class_loss_fn=f
        )
        halved = jax.tree.map(lambda g: -0.5 * g, alone[0][0])
        assert ref.error(updates, halved) <= 1e-6


def test_looksam_keeps_its_state_for_a_number_of_numpy(x64):
    tx = fsam.looksam(fsam.sam(), every=np.int64(3))
    params, f = to_jax(FULL), loss_of()
    _, after = jax.eval_shape(
        lambda p: tx.update(gradient(f, p), tx.init(p), p, per_class_loss_fn=f), params
    )
    assert after.phase.dtype == jnp.int32


# --- mistakes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: fsam.looksam(fsam.sam(), every=0), ValueError, "every must be an int"),
        (lambda: fsam.looksam(fsam.sam(), every=2.0), TypeError, "got 2.0"),
        (lambda: fsam.looksam(fsam.sam(), every=True), TypeError, "got True"),
        (lambda: fsam.looksam(fsam.sam(), alpha=-1), ValueError, "alpha must be a fin"),
        (lambda: fsam.looksam(fsam.sam(), alpha=np.nan), ValueError, "got nan"),
        (lambda: fsam.reuse_ascent(rho=-1), ValueError, "rho must be a finite number"),
        (lambda: fsam.reuse_ascent(rho=1, lam=np.inf), ValueError, "lam must be"),
        (lambda: fsam.reuse_ascent([1, np.nan], rho=1), ValueError, "class_weights"),
        (lambda: fsam.reuse_ascent([[1.0]], rho=1), ValueError, r"got shape \(1, 1\)"),
    ],
)
def test_a_mistake_in_building_is_explained(make, error, words):
    with pytest.raises(error, match=words):
        make()


@pytest.mark.parametrize(
    ("tx", "name"),
    [
        (fsam.reuse_ascent(FOCAL, rho=0.3), "reuse_ascent"),
        (fsam.looksam(fsam.focal_sam(ref.COUNTS)), "focal_sam"),
    ],
)
def test_a_mistake_in_use_is_explained_by_name(tx, name):
    params = to_jax(FULL)
    with pytest.raises(ValueError, match=f"{name} needs the loss function"):
        tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match=f"{name} needs the parameters"):
        tx.update(params, tx.init(params), per_class_loss_fn=loss_of())
    with pytest.raises(ValueError, match=f"{name} is wrapped by optax.MultiSteps"):
        steps = optax.MultiSteps(tx, 2)
        steps.update(params, steps.init(params), params, per_class_loss_fn=loss_of())
    with pytest.raises(ValueError, match="did you take the mean"):
        mean = lambda p: loss_of()(p).sum()  # noqa: E731
        tx.update(params, tx.init(params), params, per_class_loss_fn=mean)
