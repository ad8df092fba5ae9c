"""The long-tailed losses against loops, hand-worked numbers, PyTorch, each other."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.test_util import check_grads

from focal_sam_jax import losses

BATCH, CLASSES = 6, 4
COUNTS = np.array([500, 100, 20, 5])
WEIGHTS = np.array([0.5, 1.0, 0.25, 3.0])
LOSSES = {
    "cross_entropy": lambda x, y, n, **kw: losses.cross_entropy(x, y, **kw),
    "focal": lambda x, y, n, **kw: losses.focal(x, y, **kw),
    "focal_half": lambda x, y, n, **kw: losses.focal(x, y, gamma=0.5, **kw),
    "ldam": losses.ldam,
    "vector_scaling": losses.vector_scaling,
    "logit_adjusted": losses.logit_adjusted,
}
COUNTING = {k: LOSSES[k] for k in ("ldam", "vector_scaling", "logit_adjusted")}
WEIGHED = {k: v for k, v in LOSSES.items() if k != "logit_adjusted"}
every_loss = pytest.mark.parametrize("name", LOSSES)
every_counting_loss = pytest.mark.parametrize("name", COUNTING)
every_weighed_loss = pytest.mark.parametrize("name", WEIGHED)

some_logits = arrays(np.float32, (BATCH, CLASSES), elements=st.floats(-8, 8, width=32))
some_labels = arrays(np.int32, BATCH, elements=st.integers(0, CLASSES - 1))
some_counts = arrays(np.int32, CLASSES, elements=st.integers(1, 5000))
few_examples = settings(deadline=None, max_examples=25)


def batch(dtype=np.float32):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(BATCH, CLASSES)).astype(dtype)
    return logits, np.array([0, 1, 2, 3, 3, 0])


def loop(name, logits, labels, counts, weights=None):
    """The formulas, one example and one class at a time, in Python floats."""
    values = []
    for x, y in zip(logits.astype(float), labels, strict=True):
        x = [float(score) for score in x]
        for c in range(len(x)):
            if name == "ldam":
                margin = 0.5 * counts[c] ** -0.25 / max(n**-0.25 for n in counts)
                x[c] = 30 * (x[c] - margin * (c == y))
            if name == "vector_scaling":
                x[c] /= (max(counts) / counts[c]) ** 0.3
            if name in ("vector_scaling", "logit_adjusted"):
                x[c] += math.log(counts[c] / sum(counts))
        loss = max(x) - x[y] + math.log(sum(math.exp(z - max(x)) for z in x))
        if name.startswith("focal"):
            loss *= (1 - math.exp(-loss)) ** (0.5 if name == "focal_half" else 2)
        values.append(loss * (1 if weights is None else weights[y]))
    return np.array(values)


def cifar_counts(num_classes, imbalance=100):
    top = 50000 // num_classes
    steps = np.arange(num_classes) / (num_classes - 1)
    return (top * (1 / imbalance) ** steps).astype(int)


# --- values ---------------------------------------------------------------------------


@every_loss
def test_agrees_with_loops(name):
    logits, labels = batch()
    got = LOSSES[name](logits, labels, COUNTS)
    assert got.shape == (BATCH,) and got.dtype == jnp.float32
    np.testing.assert_allclose(got, loop(name, logits, labels, COUNTS), rtol=1e-5)


@every_weighed_loss
def test_agrees_with_loops_when_weighed(name):
    logits, labels = batch()
    got = LOSSES[name](logits, labels, COUNTS, class_weights=WEIGHTS)
    want = loop(name, logits, labels, COUNTS, WEIGHTS)
    np.testing.assert_allclose(got, want, rtol=1e-5)


@every_loss
def test_agrees_with_loops_in_x64(name):
    with jax.enable_x64(True):
        logits, labels = batch(np.float64)
        got = LOSSES[name](logits, labels, COUNTS)
        assert got.dtype == jnp.float64
        want = loop(name, logits, labels, COUNTS)
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_by_hand():
    # Logits ln 3 and 0 have the probabilities 3/4 and 1/4.
    logits = jnp.log(jnp.array([[3.0, 1.0], [3.0, 1.0]]))
    labels = jnp.array([0, 1])
    # -ln 3/4 and -ln 1/4
    np.testing.assert_allclose(
        losses.cross_entropy(logits, labels), [0.28768207, 1.3862944], rtol=1e-6
    )
    # (1/4)^2 * 0.28768207 and (3/4)^2 * 1.3862944
    focal = [0.01798013, 0.77979058]
    np.testing.assert_allclose(losses.focal(logits, labels), focal, rtol=1e-6)
    # A class weight keeps the probability: 2 * (1/4)^2 * 0.28768207.
    weighed = losses.focal(logits, labels, class_weights=[2.0, 1.0])
    np.testing.assert_allclose(weighed, [0.03596026, 0.77979058], rtol=1e-6)
    # Priors 1/4, 3/4 make both scores 3/4: ln 2 each.
    adjusted = losses.logit_adjusted(logits, labels, [1, 3])
    np.testing.assert_allclose(adjusted, [0.69314718, 0.69314718], rtol=1e-6)
    # tau = 0 and D = (1, (16/1)^(1/4) = 2): the logits are (ln 3, 0 / 2), as before.
    scaled = losses.vector_scaling(logits, labels, [16, 1], gamma=0.25, tau=0.0)
    np.testing.assert_allclose(scaled, [0.28768207, 1.3862944], rtol=1e-6)
    # Exchanged counts: D = (2, 1), odds of sqrt 3, losses ln(1 + 3^-.5), ln(1 + 3^.5).
    scaled = losses.vector_scaling(logits, labels, [1, 16], gamma=0.25, tau=0.0)
    np.testing.assert_allclose(scaled, [0.45574653, 1.0050525], rtol=1e-6)
    # Margins 1/4, 1/2, scale 2, equal logits: ln(1 + e^.5), ln(1 + e^1).
    margins = losses.ldam(jnp.zeros((2, 2)), labels, [16, 1], scale=2.0)
    np.testing.assert_allclose(margins, [0.97407698, 1.3132617], rtol=1e-6)


@pytest.mark.parametrize(
    ("num_classes", "first", "last"), [(10, 0.0506, 3.993), (100, 0.0449, 4.378)]
)
def test_class_balanced_weights_of_cifar(num_classes, first, last):
    counts = cifar_counts(num_classes)
    weights = losses.class_balanced_weights(counts)
    assert weights.shape == (num_classes,) and weights.dtype == jnp.float32
    np.testing.assert_allclose(weights[0], first, atol=5e-5)
    np.testing.assert_allclose(weights[-1], last, atol=5e-4)
    want = (1 - 0.9999) / (1 - 0.9999 ** counts.astype(float))
    np.testing.assert_allclose(weights, want * num_classes / want.sum(), rtol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.9, 1 - 1e-9])
def test_class_balanced_weights_between_equal_and_inverse(beta):
    weights = losses.class_balanced_weights([100, 10, 1], beta)
    want = {0.0: [1, 1, 1], 0.9: [0.3973, 0.6100, 3.9727]}
    # For 0.9: E = (9.99973, 6.51322, 1); the inverses, rescaled to the sum 3.
    inverses = 1 / np.array([9.99973439, 6.5132156, 1.0])
    want[0.9] = 3 * inverses / inverses.sum()
    want[1 - 1e-9] = 3 * np.array([1, 10, 100]) / 111
    np.testing.assert_allclose(weights, want[beta], rtol=1e-5)


def test_deferred_weights_start_with_the_epoch():
    calls = []

    @jax.jit
    def weights(epoch):
        calls.append(epoch)
        return losses.deferred_weights(COUNTS, epoch)

    balanced = losses.class_balanced_weights(COUNTS)
    np.testing.assert_array_equal(weights(0), np.ones(CLASSES))
    np.testing.assert_array_equal(weights(159), np.ones(CLASSES))
    np.testing.assert_allclose(weights(160), balanced, rtol=1e-6)
    np.testing.assert_allclose(weights(199), balanced, rtol=1e-6)
    assert len(calls) == 1
    early = losses.deferred_weights(COUNTS, 60, start_epoch=60, beta=0.9)
    np.testing.assert_array_equal(early, losses.class_balanced_weights(COUNTS, 0.9))


@pytest.mark.parametrize("num_classes", [10, 100])
def test_ldam_margins_of_cifar(num_classes):
    margins = losses.ldam_margins(cifar_counts(num_classes))
    assert margins.shape == (num_classes,) and margins.dtype == jnp.float32
    # 0.5 * (1/100)^(1/4)
    np.testing.assert_allclose(margins[0], 0.158114, rtol=1e-5)
    assert margins[-1] == 0.5


# --- PyTorch --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("weights", [None, WEIGHTS.astype(np.float32)])
@pytest.mark.parametrize("name", ["cross_entropy", *COUNTING])
def test_agrees_with_pytorch(name, weights):
    torch = pytest.importorskip("torch")
    if name == "logit_adjusted" and weights is not None:
        pytest.skip("the logit-adjusted loss has no weights")
    logits, labels = batch()
    given_weights = {} if weights is None else {"class_weights": weights}
    got = LOSSES[name](logits, labels, COUNTS, **given_weights)
    x = torch.tensor(logits, requires_grad=True)
    n = torch.tensor(COUNTS, dtype=torch.float32)
    changed = x
    if name == "ldam":
        margins = n**-0.25 * (0.5 / (n**-0.25).max())
        one_hot = torch.nn.functional.one_hot(torch.tensor(labels), CLASSES)
        changed = 30 * (x - one_hot * margins)
    if name == "vector_scaling":
        changed = x / (n.max() / n) ** 0.3 + torch.log(n / n.sum())
    if name == "logit_adjusted":
        changed = x + torch.log(n / n.sum() + 1e-9)
    want = torch.nn.functional.cross_entropy(
        changed,
        torch.tensor(labels),
        weight=None if weights is None else torch.tensor(weights),
        reduction="none",
    )
    np.testing.assert_allclose(got, want.detach().numpy(), rtol=2e-5, atol=1e-6)
    want.sum().backward()
    slope = jax.grad(lambda z: LOSSES[name](z, labels, COUNTS, **given_weights).sum())
    np.testing.assert_allclose(slope(logits), x.grad.numpy(), rtol=1e-4, atol=1e-5)


# --- properties -----------------------------------------------------------------------


@every_loss
@few_examples
@given(some_logits, some_labels, some_counts)
def test_never_negative_and_finite(name, logits, labels, counts):
    values = LOSSES[name](logits, labels, counts)
    assert np.all(values >= 0) and np.all(np.isfinite(values))


@pytest.mark.parametrize("name", [k for k in LOSSES if k != "vector_scaling"])
@few_examples
@given(some_logits, some_labels, st.floats(-5, 5, width=32))
def test_a_shift_of_all_logits_changes_nothing(name, logits, labels, shift):
    here = LOSSES[name](logits, labels, COUNTS)
    there = LOSSES[name](logits + np.float32(shift), labels, COUNTS)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=2e-4)


@every_loss
@few_examples
@given(some_logits, some_labels, some_counts, st.permutations(range(CLASSES)))
def test_names_of_classes_do_not_matter(name, logits, labels, counts, order):
    order = np.array(order)
    here = LOSSES[name](logits, labels, counts)
    there = LOSSES[name](logits[:, order], np.argsort(order)[labels], counts[order])
    np.testing.assert_allclose(here, there, rtol=1e-5, atol=1e-5)


@every_loss
@few_examples
@given(some_logits, some_labels, st.permutations(range(BATCH)))
def test_order_of_examples_does_not_matter(name, logits, labels, order):
    order = np.array(order)
    here = LOSSES[name](logits, labels, COUNTS)[order]
    there = LOSSES[name](logits[order], labels[order], COUNTS)
    np.testing.assert_allclose(here, there, rtol=1e-6, atol=1e-6)


@every_counting_loss
@few_examples
@given(some_logits, some_labels, some_counts, st.floats(1e-3, 1e3))
def test_only_ratios_of_counts_matter(name, logits, labels, counts, factor):
    here = LOSSES[name](logits, labels, counts)
    there = LOSSES[name](logits, labels, counts * factor)
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-4)


@few_examples
@given(some_logits, some_labels, some_counts)
def test_everything_reduces_to_cross_entropy(logits, labels, counts):
    plain = losses.cross_entropy(logits, labels)
    equal = np.full(CLASSES, 7)
    for same in (
        losses.cross_entropy(logits, labels, class_weights=np.ones(CLASSES)),
        losses.focal(logits, labels, gamma=0.0),
        losses.focal(logits, labels, gamma=0),
        losses.ldam(logits, labels, counts, max_margin=0.0, scale=1.0),
        losses.vector_scaling(logits, labels, counts, gamma=0.0, tau=0.0),
        losses.vector_scaling(logits, labels, equal),
        losses.logit_adjusted(logits, labels, counts, tau=0.0),
        losses.logit_adjusted(logits, labels, equal),
    ):
        np.testing.assert_allclose(same, plain, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(
        losses.vector_scaling(logits, labels, counts, gamma=0.0),
        losses.logit_adjusted(logits, labels, counts),
        rtol=1e-6,
    )


@few_examples
@given(some_counts, st.floats(0, 0.99999))
def test_class_weights_have_mean_one_and_favour_the_rare(counts, beta):
    weights = np.asarray(losses.class_balanced_weights(counts, beta))
    np.testing.assert_allclose(weights.mean(), 1, rtol=1e-5)
    assert np.all(np.diff(weights[np.argsort(-counts)]) >= -1e-6)


# --- gradients and extremes -----------------------------------------------------------


@pytest.mark.by_default(name=("cross_entropy",))
@every_loss
def test_gradients_agree_with_differences(name):
    with jax.enable_x64(True):
        logits, labels = batch(np.float64)

        def total(x):
            return LOSSES[name](0.2 * x, labels, COUNTS).sum()

        check_grads(total, (logits,), order=2, modes=["fwd", "rev"], rtol=1e-4)


@every_loss
@pytest.mark.parametrize("size", [0.0, 20.0, 1e4, 1e30])
def test_extreme_logits_have_finite_losses_and_gradients(name, size):
    logits = size * jnp.array([[1.0, -1, -1, -1], [1, 1, 1, 1], [-1, 1, 1, 1]])
    for label in range(CLASSES):
        labels = jnp.full(3, label)

        def total(x, labels=labels):
            return LOSSES[name](x, labels, COUNTS).sum()

        value, slope = jax.value_and_grad(total)(logits)
        assert np.isfinite(value) and np.all(np.isfinite(slope))


@pytest.mark.by_default(gamma=(0.0,))
@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0, 5.0])
def test_focal_gradient_where_the_label_is_certain(gamma):
    def total(x, gamma):
        return losses.focal(x, jnp.array([0]), gamma=gamma).sum()

    compiled = jax.jit(jax.grad(total, argnums=(0, 1)))
    hessian = jax.jit(jax.hessian(total))
    for gap in (0.0, 5.0, 15.0, 17.0, 18.0, 50.0, 1e4):
        logits = jnp.array([[gap, 0.0]])
        assert np.all(np.isfinite(jax.grad(total)(logits, gamma)))
        assert np.all(np.isfinite(compiled(logits, gamma)[0]))
        assert np.all(np.isfinite(hessian(logits, gamma)))
    np.testing.assert_array_equal(jax.grad(total)(logits, gamma), [[0.0, 0.0]])


@every_loss
def test_a_masked_class_is_as_if_it_were_not_there(name):
    logits, labels = (np.array([[1.0, -0.5, 2.0], [0.3, 0.7, -1.0]]), np.array([1, 2]))
    counts = np.array([0, 5, 9])
    if name in ("ldam", "focal", "cross_entropy"):
        counts = np.array([5, 5, 9])  # a class with the counts of another
    masked = np.where(np.arange(3) == 0, -np.inf, logits)
    got, slope = jax.value_and_grad(
        lambda x: jnp.sum(LOSSES[name](x, labels, counts) * jnp.array([1.0, 2.0]))
    )(jnp.asarray(masked))
    without = LOSSES[name](logits[:, 1:], labels - 1, counts[1:])
    np.testing.assert_allclose(got, without @ np.array([1.0, 2.0]), rtol=1e-5)
    assert np.all(np.isfinite(slope)) and not np.any(slope[:, 0])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_a_masked_label_has_the_slope_of_the_cross_entropy(gamma):
    logits, labels = jnp.array([[-jnp.inf, 0.0]]), jnp.array([0])
    slope = jax.grad(lambda x: losses.focal(x, labels, gamma=gamma).sum())(logits)
    np.testing.assert_array_equal(slope, [[-1.0, 1.0]])


@every_weighed_loss
def test_what_weighs_nothing_has_no_loss_though_its_label_is_masked(name):
    logits, labels = jnp.array([[-jnp.inf, 0.0, 1.0, 0.0]]), jnp.array([0])
    weights = np.array([0.0, 1, 2, 1])
    got = LOSSES[name](logits, labels, COUNTS, class_weights=weights)
    np.testing.assert_array_equal(got, [0.0])


@every_loss
def test_a_row_that_is_all_masked_and_has_no_label_has_no_gradient(name):
    logits = jnp.full((1, CLASSES), -jnp.inf)
    value, slope = jax.value_and_grad(
        lambda x: LOSSES[name](x, jnp.array([-1]), COUNTS).sum()
    )(logits)
    assert value == 0 and not np.any(slope)


def test_a_mask_on_an_empty_class_of_vector_scaling():
    got = losses.vector_scaling([[-jnp.inf, 0.0, 1.0]], [1], [0, 5, 9])
    np.testing.assert_allclose(got, [1.7737495], rtol=1e-6)


@every_counting_loss
def test_an_empty_class_is_finite(name):
    logits, labels = batch()
    counts = np.array([500, 100, 0, 5])
    values, pull = jax.vjp(lambda x: LOSSES[name](x, labels, counts), logits)
    assert np.all(np.isfinite(values))
    assert np.all(np.isfinite(pull(jnp.ones(BATCH))[0]))


def test_what_an_empty_class_is_given():
    counts = [100, 10, 0]
    same = losses.class_balanced_weights([100, 10, 1])
    np.testing.assert_array_equal(losses.class_balanced_weights(counts), same)
    margins = losses.ldam_margins(counts)
    assert margins[1] == margins[2] == 0.5
    # Two equal logits: only the shifts ln(1) and ln(1e-9) differ.
    adjusted = losses.logit_adjusted(jnp.zeros((1, 2)), jnp.array([1]), [10, 0])
    np.testing.assert_allclose(adjusted, [9 * math.log(10)], rtol=1e-6)


@every_loss
def test_a_label_outside_has_no_loss_and_no_gradient(name):
    logits, _ = batch()
    labels = jnp.array([-1, CLASSES + 1, 0, 1, -100, 2])
    values, pull = jax.vjp(lambda x: LOSSES[name](x, labels, COUNTS), logits)
    slope = pull(jnp.ones(BATCH))[0]
    outside = np.array([0, 1, 4])
    assert not np.any(values[outside]) and not np.any(slope[outside])
    assert np.all(values[np.array([2, 3, 5])] > 0)


@every_loss
def test_labels_from_one_are_warned_of_where_they_can_be_seen(name):
    logits, _ = batch()
    labels = jnp.array([1, CLASSES, 2, 1, 3, 2])
    with pytest.warns(UserWarning, match="start from 1, subtract 1"):
        seen = LOSSES[name](logits, labels, COUNTS)
    unseen = jax.jit(lambda labels: LOSSES[name](logits, labels, COUNTS))(labels)
    np.testing.assert_allclose(seen, unseen, rtol=1e-5)


def test_a_nan_stays_in_its_example():
    logits, labels = batch()
    logits[2, 0] = np.nan
    for loss in LOSSES.values():
        got = np.isnan(loss(logits, labels, COUNTS))
        np.testing.assert_array_equal(got, np.arange(BATCH) == 2)


# --- dtypes and transformations -------------------------------------------------------


@every_loss
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
def test_low_precision_logits_are_promoted_first(name, dtype):
    logits, labels = batch()
    low = jnp.asarray(logits, dtype)
    got = LOSSES[name](low, labels, COUNTS)
    assert got.dtype == jnp.float32
    want = LOSSES[name](low.astype(jnp.float32), labels, COUNTS)
    np.testing.assert_array_equal(got, want)
    slope = jax.grad(lambda x: LOSSES[name](x, labels, COUNTS).sum())(low)
    assert slope.dtype == dtype


@every_weighed_loss
def test_float32_stays_float32_in_x64(name):
    with jax.enable_x64(True):
        logits, labels = batch()
        options = {"class_weights": WEIGHTS}
        if name == "ldam":
            options |= {"scale": np.float64(30), "max_margin": np.float64(0.5)}
        if name == "vector_scaling":
            options |= {"gamma": np.float64(0.3), "tau": np.float64(1)}
        got = LOSSES[name](logits, labels, COUNTS, **options)
        assert got.dtype == jnp.float32


@every_loss
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32])
def test_strict_promotion_and_small_label_dtypes(name, dtype):
    logits, labels = batch()
    want = LOSSES[name](logits, labels, COUNTS)
    with jax.numpy_dtype_promotion("strict"):
        got = LOSSES[name](logits, labels.astype(dtype), COUNTS)
    np.testing.assert_array_equal(got, want)


@every_loss
def test_jit_and_vmap_with_traced_counts_in_any_container(name):
    logits, labels = batch()
    want = LOSSES[name](logits, labels, COUNTS)
    traced = jax.jit(LOSSES[name])(logits, labels, COUNTS)
    np.testing.assert_allclose(traced, want, rtol=1e-5)
    listed = LOSSES[name](logits.tolist(), labels.tolist(), COUNTS.tolist())
    np.testing.assert_allclose(listed, want, rtol=1e-6)
    list_of_traced = jax.jit(LOSSES[name])(logits, labels, COUNTS.tolist())
    np.testing.assert_allclose(list_of_traced, want, rtol=1e-5)
    models = jnp.stack([logits, 2 * logits])
    mapped = jax.vmap(LOSSES[name], in_axes=(0, None, None))(models, labels, COUNTS)
    np.testing.assert_allclose(mapped[0], want, rtol=1e-5)
    np.testing.assert_allclose(
        mapped[1], LOSSES[name](2 * logits, labels, COUNTS), rtol=1e-5
    )


@pytest.mark.slow
def test_traced_hyperparameters():
    logits, labels = batch()

    @jax.jit
    def everything(value, weights, beta):
        return (
            losses.focal(logits, labels, gamma=value, class_weights=weights),
            losses.ldam(logits, labels, COUNTS, max_margin=value, scale=value),
            losses.vector_scaling(logits, labels, COUNTS, gamma=value, tau=value),
            losses.logit_adjusted(logits, labels, COUNTS, tau=value),
            losses.class_balanced_weights(COUNTS, beta),
        )

    got = everything(0.75, WEIGHTS, 0.99)
    with jax.disable_jit():
        want = everything(0.75, WEIGHTS, 0.99)
    for here, there in zip(got, want, strict=True):
        np.testing.assert_allclose(here, there, rtol=1e-5)


# --- errors ---------------------------------------------------------------------------

X, Y = jnp.zeros((2, 3)), jnp.array([0, 1])


@every_loss
@pytest.mark.parametrize(
    ("logits", "labels", "error", "words"),
    [
        (jnp.zeros(3), Y, ValueError, r"logits .*\(batch, num_classes\), got \(3,\)"),
        (jnp.zeros((2, 2, 3)), Y, ValueError, r"got \(2, 2, 3\); reshape"),
        (jnp.zeros((2, 3), int), Y, TypeError, "logits must be floats, got int32"),
        (X, jnp.zeros((2, 3)), ValueError, r"labels .*\(2, 3\); .*labels.argmax\(-1\)"),
        (X, jnp.array([0, 1, 2]), ValueError, r"here \(2,\), got \(3,\)"),
        (X, jnp.array([0.0, 1.0]), TypeError, "labels must be ints, got float32"),
        (X, jnp.array([True, False]), TypeError, "labels must be ints, got bool"),
    ],
)
def test_a_wrong_batch_is_explained(name, logits, labels, error, words):
    with pytest.raises(error, match=words):
        LOSSES[name](logits, labels, [3, 2, 1])
    with pytest.raises(error, match=words):
        jax.eval_shape(LOSSES[name], logits, labels, np.array([3, 2, 1]))


WRONG_PER_CLASS = [
    ([1, 2], r"shape \(3,\), got \(2,\); pass one number for every column"),
    ([[1, 2, 3]], r"got \(1, 3\)"),
    (4, r"got \(\)"),
    ([3, -1, 2], r"finite, >= 0 and not all zero, got \[3.0, -1.0, 2.0\]"),
    ([3, np.nan, 2], "finite"),
    ([3, np.inf, 2], "finite"),
    ([0, 0, 0], "not all zero"),
]


@pytest.mark.parametrize(("values", "words"), WRONG_PER_CLASS)
def test_wrong_counts_and_weights_are_explained(values, words):
    for loss in COUNTING.values():
        with pytest.raises(ValueError, match="class_counts .*" + words):
            loss(X, Y, values)
    for loss in WEIGHED.values():
        with pytest.raises(ValueError, match="class_weights .*" + words):
            loss(X, Y, [3, 2, 1], class_weights=values)


@pytest.mark.parametrize(("values", "words"), WRONG_PER_CLASS[1:])
def test_wrong_counts_without_logits_are_explained(values, words):
    for function in (losses.class_balanced_weights, losses.ldam_margins):
        with pytest.raises(ValueError, match="class_counts .*" + words):
            function(values)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda v: losses.focal(X, Y, gamma=v), "gamma .* >= 0"),
        (lambda v: losses.vector_scaling(X, Y, [3, 2, 1], gamma=v), "gamma .* >= 0"),
        (lambda v: losses.vector_scaling(X, Y, [3, 2, 1], tau=v), "tau .* >= 0"),
        (lambda v: losses.logit_adjusted(X, Y, [3, 2, 1], tau=v), "tau .* >= 0"),
        (lambda v: losses.ldam(X, Y, [3, 2, 1], scale=v), "scale .* > 0"),
        (lambda v: losses.ldam(X, Y, [3, 2, 1], max_margin=v), "max_margin .* >= 0"),
        (lambda v: losses.class_balanced_weights([2, 1], v), "beta .* >= 0 and < 1"),
        (lambda v: losses.deferred_weights([2, 1], v), "epoch .* >= 0"),
        (lambda v: losses.deferred_weights([2, 1], 0, start_epoch=v), "start_epoch"),
    ],
)
def test_a_wrong_number_is_explained(call, words):
    for value in (-1.0, math.nan):
        with pytest.raises(ValueError, match=f"{words}.*, got {value}"):
            call(value)
    with pytest.raises(ValueError, match=words + r".*got shape \(2,\)"):
        call(np.array([0.5, 0.5]))
    with pytest.raises(TypeError, match=words + ".*got 'much'"):
        call("much")
    with pytest.raises(ValueError, match=words + r".*got shape \(2,\)"):
        jax.eval_shape(call, np.array([0.5, 0.5]))


def test_the_bounds_that_are_not_allowed():
    with pytest.raises(ValueError, match="scale must be .* > 0, got 0"):
        losses.ldam(X, Y, [3, 2, 1], scale=0)
    with pytest.raises(ValueError, match="beta must be .* < 1, got 1"):
        losses.class_balanced_weights([2, 1], 1.0)
