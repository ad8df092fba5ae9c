"""Tests of weights and radii from class counts, and of per-class losses."""

import linecache
import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tracing import counted

import focal_sam_jax as fsam

CLASSES, BATCH = 5, 8
FUNCTIONS = {
    "class_priors": fsam.class_priors,
    "focal_weights": partial(fsam.focal_weights, gamma=2.5),
    "tail_weights": partial(fsam.tail_weights, threshold=20),
    "cc_sam_radii": partial(fsam.cc_sam_radii, rho=0.1),
}
every_function = pytest.mark.parametrize("name", FUNCTIONS)
few_examples = settings(deadline=None, max_examples=25)

some_counts = arrays(np.int32, CLASSES, elements=st.integers(1, 10_000))
some_losses = arrays(np.float32, BATCH, elements=st.floats(0, 100, width=32))
some_labels = arrays(np.int32, BATCH, elements=st.integers(0, CLASSES - 1))
some_where = arrays(np.bool_, BATCH)


def loops(name, counts):
    """The formulas in Python floats."""
    counts = [float(n) for n in counts]
    if name == "cc_sam_radii":
        return ref.radii(counts, 0.1)
    shares = [n / sum(counts) for n in counts]
    return {
        "class_priors": shares,
        "focal_weights": [(1 - share) ** 2.5 for share in shares],
        "tail_weights": [1.0 if n < 20 else 0.0 for n in counts],
    }[name]


# --- weights and radii ----------------------------------------------------------------


@every_function
@few_examples
@given(some_counts)
def test_agrees_with_loops(name, counts):
    got = FUNCTIONS[name](counts)
    assert got.shape == (CLASSES,) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, loops(name, counts), rtol=1e-5)


@every_function
def test_agrees_with_loops_in_x64(name, x64):
    counts = [5000, 387, 30, 19, 1]
    got = FUNCTIONS[name](counts)
    assert got.dtype == jnp.float64
    np.testing.assert_allclose(got, loops(name, counts), rtol=1e-14)


@pytest.mark.parametrize("gamma", [3.0, 3.2])
def test_published_coefficients_of_cifar(gamma):
    # lambda (1 - pi)^gamma of the published CIFAR recipes, first class and last.
    classes, lam, head, tail = {
        3.0: (10, 0.5, 0.1064, 0.4940),
        3.2: (100, 0.8, 0.6879, 0.7988),
    }[gamma]
    steps = np.arange(classes) / (classes - 1)
    counts = (50_000 // classes * 0.01**steps).astype(int)
    got = lam * fsam.focal_weights(counts, gamma)
    np.testing.assert_allclose([got[0], got[-1]], [head, tail], atol=5e-5)


@few_examples
@given(some_counts, st.floats(0, 10))
def test_focal_weights_lie_between_zero_and_one_and_favour_the_rare(counts, gamma):
    weights = np.asarray(fsam.focal_weights(counts, gamma))
    assert np.all((weights >= 0) & (weights <= 1))
    assert np.all(np.diff(weights[np.argsort(-counts, kind="stable")]) >= 0)


@few_examples
@given(some_counts, st.floats(1e-3, 1.0))
def test_radii_are_rho_for_the_rarest_and_shrink_with_the_count(counts, rho):
    radii = np.asarray(fsam.cc_sam_radii(counts, rho))
    np.testing.assert_allclose(radii[np.argmin(counts)], rho, rtol=1e-6)
    assert np.all(np.diff(radii[np.argsort(-counts, kind="stable")]) >= 0)


@few_examples
@given(some_counts, st.integers(1, 1000))
def test_only_ratios_of_counts_matter(counts, factor):
    more = counts.astype(np.int64) * factor
    for name in ("class_priors", "focal_weights"):
        here, there = FUNCTIONS[name](counts), FUNCTIONS[name](more)
        np.testing.assert_allclose(there, here, rtol=1e-5)


@every_function
@few_examples
@given(some_counts, st.permutations(range(CLASSES)))
def test_names_of_classes_do_not_matter(name, counts, order):
    order = np.array(order)
    here, there = FUNCTIONS[name](counts)[order], FUNCTIONS[name](counts[order])
    np.testing.assert_allclose(there, here, rtol=1e-5)


def test_gamma_zero_weighs_all_classes_alike():
    weights = fsam.focal_weights([100, 0, 3], 0)
    np.testing.assert_array_equal(weights, np.ones(3))


def test_a_class_of_the_threshold_size_is_no_tail_class():
    weights = fsam.tail_weights([21, 20, 19, 0], 20)
    np.testing.assert_array_equal(weights, [0, 0, 1, 1])


@pytest.mark.parametrize("rare", [0, 1, 2])
def test_the_radius_of_a_class_with_no_example_or_one_is_finite(rare):
    radii = fsam.cc_sam_radii([17, 2, rare], rho=0.5)
    np.testing.assert_allclose(radii, [0.25, 0.5, 0.5], rtol=1e-6)


def test_a_dominant_class_keeps_its_digits():
    got = fsam.focal_weights([10**6, 1, 1], gamma=1.0)[0]
    np.testing.assert_allclose(got, 2 / (10**6 + 2), rtol=1e-6)


@every_function
def test_billions_of_examples_do_not_overflow(name):
    counts = np.array([2_000_000_000, 2_000_000_000, 19, 5, 2], np.int32)
    np.testing.assert_allclose(FUNCTIONS[name](counts), loops(name, counts), rtol=1e-5)


@every_function
@pytest.mark.parametrize("as_type", [list, tuple, np.array, jnp.array, np.float32])
def test_counts_come_in_any_container(name, as_type):
    counts = [400, 50, 20, 19, 1]
    want = loops(name, counts)
    np.testing.assert_allclose(FUNCTIONS[name](as_type(counts)), want, rtol=1e-5)
    traced = jax.jit(FUNCTIONS[name])(np.array(counts))
    np.testing.assert_allclose(traced, want, rtol=1e-5)


def test_numbers_may_be_traced():
    counts = [400, 50, 20, 19, 1]

    @counted
    def everything(value):
        return [
            fsam.focal_weights(counts, value),
            fsam.tail_weights(counts, value),
            fsam.cc_sam_radii(counts, value),
        ]

    compiled = jax.jit(everything)
    for value in (2.5, 20.0):
        focal, tail, radii = compiled(value)
        np.testing.assert_allclose(focal, fsam.focal_weights(counts, value), rtol=1e-5)
        np.testing.assert_array_equal(tail, fsam.tail_weights(counts, value))
        np.testing.assert_allclose(radii, ref.radii(counts, value), rtol=1e-5)
    assert everything.traces == 1


# --- per-class losses -----------------------------------------------------------------


@few_examples
@given(some_losses, some_labels, some_where)
def test_per_class_losses_agree_with_loops(losses, labels, where):
    got = fsam.per_class_losses(losses, labels, CLASSES, where=where)
    want = np.zeros(CLASSES)
    for loss, label, keep in zip(losses, labels, where, strict=True):
        want[label] += keep * float(loss) / max(1, sum(where))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-30)


@few_examples
@given(some_losses, some_labels, some_where)
def test_they_sum_to_the_mean_over_what_is_kept(losses, labels, where):
    everything = fsam.per_class_losses(losses, labels, CLASSES).sum()
    np.testing.assert_allclose(
        everything, losses.astype(float).mean(), rtol=1e-5, atol=1e-30
    )
    kept = fsam.per_class_losses(losses, labels, CLASSES, where=where).sum()
    want = losses[where].astype(float).mean() if where.any() else 0.0
    np.testing.assert_allclose(kept, want, rtol=1e-5, atol=1e-30)


@few_examples
@given(some_losses, some_labels)
def test_padding_that_is_masked_changes_nothing(losses, labels):
    padded = np.concatenate([losses, np.full(3, np.nan, np.float32)])
    ids = np.concatenate([labels, np.zeros(3, np.int32)])
    where = np.arange(BATCH + 3) < BATCH
    got = fsam.per_class_losses(padded, ids, CLASSES, where=where)
    want = fsam.per_class_losses(losses, labels, CLASSES)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_a_class_without_examples_has_loss_and_gradient_zero():
    labels = jnp.array([0, 2, 2])

    def third(losses):
        return fsam.per_class_losses(losses, labels, 4)[1]

    losses = jnp.array([1.0, jnp.inf, jnp.nan])
    assert third(losses) == 0
    np.testing.assert_array_equal(jax.grad(third)(losses), np.zeros(3))


def test_a_nan_stays_in_the_class_of_its_example():
    got = fsam.per_class_losses(jnp.array([1.0, jnp.nan]), jnp.array([0, 2]), 3)
    np.testing.assert_array_equal(np.isnan(got), [False, False, True])


def test_a_nan_stays_in_the_classes_of_its_soft_label_or_is_left_out():
    losses = jnp.array([1.0, jnp.nan])
    shares = jnp.array([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75]])
    got = fsam.per_class_losses(losses, shares, 3)
    np.testing.assert_array_equal(got, [0.25, np.nan, np.nan])
    kept = fsam.per_class_losses(losses, shares, 3, where=[True, False])
    np.testing.assert_array_equal(kept, [0.5, 0.5, 0.0])


def test_a_label_outside_belongs_to_no_class_but_counts_in_the_batch():
    got = fsam.per_class_losses(jnp.ones(4), jnp.array([0, -1, 7, 1]), 2)
    np.testing.assert_array_equal(got, [0.25, 0.25])


def test_labels_from_one_are_warned_of_where_they_can_be_seen():
    losses, labels = jnp.ones(4), jnp.array([1, 2, 1, 2])
    with pytest.warns(UserWarning, match="labels contain 2, .* subtract 1"):
        fsam.per_class_losses(losses, labels, 2)
    kept = labels < 2
    fsam.per_class_losses(losses, labels, 2, where=kept)
    jax.jit(lambda labels: fsam.per_class_losses(losses, labels, 2))(labels)
    with pytest.warns(UserWarning, match="labels contain 2"):
        fsam.evaluate(lambda w: w * losses, 1.0 * losses, labels=labels, num_classes=2)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_labels_for_counts_are_warned_of(name):
    labels = np.repeat([0, 1, 2], [30, 10, 1])
    with pytest.warns(UserWarning, match=r"look like labels: 41 .* from 0 to 2\."):
        FUNCTIONS[name](labels)
    FUNCTIONS[name]([0, 30, 10, 1])  # counts may contain zero


def test_counts_for_weights_are_warned_of():
    with pytest.warns(UserWarning, match=r"look like class counts: \[30, 10, 1\]"):
        fsam.sharpness_aware([30, 10, 1])
    with pytest.warns(UserWarning, match=r"look like class counts: \[30, 10, 1\]"):
        fsam.reuse_ascent([30, 10, 1], rho=0.1)
    fsam.sharpness_aware([0, 1, 1])  # weights of a tail may be ints


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("masked", [False, True])
def test_sums_are_float32(dtype, masked):
    # 4096 ones: bfloat16 stops counting at 256, float16 at 2048.
    losses, labels = jnp.ones(4096, dtype), jnp.zeros(4096, jnp.uint8)
    where = jnp.ones(4096, bool) if masked else None
    got = fsam.per_class_losses(losses, labels, 2, where=where)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, [1.0, 0.0])


def test_float64_stays_float64(x64):
    got = fsam.per_class_losses(jnp.array([1 / 3]), jnp.array([0]), 1)
    assert got.dtype == jnp.float64 and got[0] == 1 / 3


X, Y = jnp.ones(2), jnp.array([0, 1])


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((X.mean(), Y, 2), ValueError, r"\(batch,\), got \(\); did you take the mean"),
        ((X[:, None], Y, 2), ValueError, r"losses, \(2, 1\), got \(2,\)"),
        ((Y, Y, 2), TypeError, "losses must be floats, got int32"),
        (
            (X, Y[:, None], 2),
            ValueError,
            r"\(2,\), got \(2, 1\); .*labels.argmax\(-1\)",
        ),
        ((X, X, 2), TypeError, "labels must be ints, got float32"),
        ((X, Y, 0), ValueError, "num_classes must be .* at least 1, got 0"),
        ((X, Y, 2, jnp.ones(3, bool)), ValueError, r"where .*\(2,\), got \(3,\)"),
        ((X, jnp.ones((2, 3)), 2), ValueError, r"soft .*\(2, 2\), got \(2, 3\)"),
        ((X, Y, 2, jnp.full(2, 0.5)), TypeError, "where must be bools, got float32"),
        ((X, Y, 2, jnp.full(2, 255, "uint8")), TypeError, "must be bools, got uint8"),
    ],
)
def test_a_wrong_batch_is_explained(arguments, error, words):
    losses, labels, classes, *where = arguments
    with pytest.raises(error, match=words):
        fsam.per_class_losses(
            losses, labels, classes, where=where[0] if where else None
        )
    with pytest.raises(error, match=words):
        jax.eval_shape(
            lambda x, y, *w: fsam.per_class_losses(
                x, y, classes, where=w[0] if w else None
            ),
            *(losses, labels, *where),
        )


def test_a_warning_names_the_users_line_once():
    x, y = jnp.zeros((3, 2)), jnp.array([1, 2, 1])
    calls = [
        lambda: fsam.losses.vector_scaling(x, y, [3, 2]),
        lambda: fsam.losses.focal(x, y),
        lambda: fsam.evaluate(
            lambda w: (x @ w).sum(1), jnp.ones((2, 2)), labels=y, num_classes=2
        ),
        lambda: fsam.focal_sam([0, 1, 2] * 9),
        lambda: fsam.sharpness_aware_value_and_grad(lambda w: w, [500, 5], rho=0.1),
    ]
    for call in calls:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        (place,) = {(warning.filename, warning.lineno) for warning in caught}
        assert place[0] == __file__ and "fsam." in linecache.getline(*place)


def test_a_list_may_hold_traced_numbers():
    @jax.jit
    def weights(a):
        return fsam.focal_weights([a, 2 * a], 1.0), fsam.cc_sam_radii([a, a], rho=a)

    np.testing.assert_allclose(weights(3.0)[0], [2 / 3, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: fsam.class_conditional(lambda count: [0.1, 0.1 * count]),
        lambda: fsam.sharpness_aware(lambda count: [1.0, 0.5 * count], rho=0.1),
    ],
)
def test_a_schedule_may_return_a_list(make):
    @jax.jit
    def step(params):
        here = fsam.evaluate(lambda p: 0.5 * p**2, params)
        tx = make()
        return tx.update(here.grads, tx.init(params), params, evaluation=here)[0]

    got = step(jnp.array([3.0, 4.0]))
    np.testing.assert_allclose(got, [3.1, 4.0], rtol=1e-6)


def test_cc_sam_without_parameters_is_nothing():
    tx = fsam.cc_sam([5, 3], rho=0.1)
    here = fsam.evaluate(lambda p: jnp.zeros(2), {})
    assert tx.update(here.grads, tx.init({}), {}, evaluation=here)[0] == {}
