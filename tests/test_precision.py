"""Tests of low-precision parameters, losses and gradients, and their errors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref

import focal_sam_jax as fsam
from focal_sam_jax._perturbation import norm, perturb

COUNTS = 1000 / 2 ** np.arange(1, 11)
SIZES = (64, 256, 256, 256, 10)


# --- bfloat16 parameters --------------------------------------------------------------


def test_bfloat16_rounds_most_of_a_perturbation_away():
    weights, direction = jax.random.split(jax.random.key(0))
    weights = 0.05 * jax.random.normal(weights, (1_000_000,))
    direction = jax.random.normal(direction, weights.shape)
    wanted = 0.05 * direction / jnp.linalg.norm(direction)
    narrow = weights.astype("bfloat16")
    there = perturb(narrow, direction, 0.05).params
    moved = there.astype("float32") - narrow.astype("float32")
    along = jnp.dot(moved, wanted) / jnp.dot(wanted, wanted)
    cosine = along * jnp.linalg.norm(wanted) / jnp.linalg.norm(moved)
    np.testing.assert_allclose(jnp.mean(moved != 0), 0.22, atol=0.02)
    np.testing.assert_allclose([cosine, along], [0.63, 0.52], atol=0.03)
    # float32 weights, converted in the loss, move correctly on average.
    moved = (weights + wanted).astype("bfloat16").astype("float32")
    moved -= weights.astype("bfloat16").astype("float32")
    np.testing.assert_allclose(jnp.dot(moved, wanted) / 0.05**2, 1.0, atol=0.02)


@pytest.fixture(scope="module")
def trained():
    """A network of four layers after some training, and its losses in any precision."""
    keys = jax.random.split(jax.random.key(3), 6)
    x = jax.random.normal(keys[0], (256, SIZES[0]))
    share = COUNTS / COUNTS.sum()
    y = jnp.asarray(np.random.default_rng(0).choice(10, 256, p=share))

    def losses(weights, dtype):
        h = x.astype(dtype)
        for number, w in enumerate(weights):
            h = h @ w.astype(dtype)
            h = jnp.tanh(h) if number < 3 else h
        return fsam.losses.cross_entropy(h, y)

    @jax.jit
    def descend(weights):
        grads = jax.grad(lambda w: losses(w, "float32").mean())(weights)
        return jax.tree.map(lambda w, g: w - 0.3 * g, weights, grads)

    weights = [
        jax.random.normal(keys[1 + i], SIZES[i : i + 2]) / SIZES[i] ** 0.5
        for i in range(4)
    ]
    for _ in range(30):
        weights = descend(weights)
    return weights, losses, y


def correction(weights, losses, y, dtype):
    tx = fsam.focal_sam(COUNTS, rho=0.05, lam=1.0)

    @jax.jit
    def step(weights):
        here = fsam.evaluate(
            partial(losses, dtype=dtype), weights, labels=y, num_classes=10
        )
        nothing = jax.tree.map(lambda g: jnp.zeros_like(g, "float32"), here.grads)
        return tx.update(nothing, tx.init(weights), weights, evaluation=here)

    updates, state = step(weights)
    flat = np.concatenate([np.ravel(u) for u in updates])
    return flat, state.info.sharpness


@pytest.mark.slow
def test_what_bfloat16_makes_of_the_correction_and_float32_weights_save(trained):
    weights, losses, y = trained
    narrow = [w.astype("bfloat16") for w in weights]
    wanted, rise = correction(weights, losses, y, "float32")

    def compare(weights):
        got, its_rise = correction(weights, losses, y, "bfloat16")
        length = np.linalg.norm(got) / np.linalg.norm(wanted)
        cosine = got @ wanted / np.linalg.norm(got) / np.linalg.norm(wanted)
        return [length, cosine, its_rise / rise]

    np.testing.assert_allclose(compare(narrow), [0.78, 0.98, 0.79], atol=0.05)
    np.testing.assert_allclose(compare(weights), [1.0, 0.99, 1.0], atol=0.03)


@pytest.mark.slow
def test_sharpness_of_bfloat16_parameters_is_measured_too_small(trained):
    weights, losses, y = trained
    of_class = fsam.sharpness.class_losses(
        lambda w: fsam.per_class_losses(losses(w, "float32"), y, 10)
    )
    narrow = [w.astype("bfloat16") for w in weights]
    wide = [w.astype("float32") for w in narrow]
    wanted, low, high = (
        fsam.sharpness.sharpness(of_class, w, 1.0, rho=0.05)
        for w in (weights, narrow, wide)
    )
    np.testing.assert_allclose([low / wanted, high / wanted], [0.79, 1.0], atol=0.03)


# --- losses in half precision ---------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_nor_where_a_batch_is_large(dtype):
    weights, labels = jnp.array([0.999, 0.9995, 1.0]), jnp.arange(65536) % 3
    x = jax.random.normal(jax.random.key(0), (65536,))

    def changed(dtype):
        here = fsam.evaluate(
            lambda p: ((p[labels] - x) ** 2).astype(dtype),
            jnp.array([0.3, -0.2, 0.9]),
            labels=labels,
            num_classes=3,
        )
        return (here.grads - here.here.weighted(weights))[:2]

    np.testing.assert_allclose(changed(dtype), changed("float32"), rtol=0.05)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("form", ["classes", "examples", "alone"])
def test_no_digit_of_the_class_weights_is_lost(dtype, form):
    # bfloat16 rounds 0.999 to 1; neither dtype has 1/10, for the batch of ten.
    params = jax.tree.map(jnp.float32, ref.parameters())
    weights = jnp.array([0.999, 0.9951, 0.7, 0.3331])

    def examples(p, dtype):
        apply = fsam.apply_per_example if form == "alone" else lambda f, p, x: f(p, x)

        def dense(p, x):
            return x @ p["kernel"] + p["bias"][None]

        h = jnp.tanh(apply(dense, p["body"], jnp.asarray(ref.X, jnp.float32)))
        out = apply(dense, p["head"], h)
        return fsam.losses.cross_entropy(out, ref.Y).astype(dtype)

    def classes(p, dtype):
        losses = examples(p, "float32")
        return fsam.per_class_losses(losses, ref.Y, ref.CLASSES).astype(dtype)

    def step(dtype):
        tx = fsam.sharpness_aware(weights, rho=0.3, lam=0.9)
        if form == "classes":
            here = fsam.evaluate(lambda p: classes(p, dtype), params)
        else:
            here = fsam.evaluate(
                lambda p: examples(p, dtype),
                params,
                labels=ref.Y,
                num_classes=ref.CLASSES,
                per_example=form == "alone",
            )
        return tx.update(here.grads, tx.init(params), params, evaluation=here)[0]

    assert ref.error(step(dtype), step("float32")) < 2e-5


# --- gradients of any size ------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-36, 1e-22, 1e-8, 1.0, 1e8, 1e20, 3e38])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_every_finite_gradient_has_a_direction(size, compiled):
    params = {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}
    unit = {"a": jnp.array([0.6, 0.0, -0.4]), "b": jnp.array([[0.2, 0.1], [0.3, 0.5]])}
    climb = partial(perturb, rho=0.5)
    climb = jax.jit(climb) if compiled else climb
    gradient = jax.tree.map(lambda g: size * g, unit)
    point, wanted = climb(params, gradient), climb(params, unit)
    assert point.moved
    assert ref.error(point.params, wanted.params) < 1e-6
    np.testing.assert_allclose(point.norm, size * ref.norm(unit), rtol=1e-5)
    np.testing.assert_allclose(jax.jit(norm)(gradient), point.norm, rtol=1e-6)


@pytest.mark.parametrize(
    ("numbers", "wanted"),
    [([], 0), ([0.0, 0.0], 0), ([np.inf, 1], np.inf), ([np.nan, 1], np.nan)],
)
def test_the_norm_of_what_has_none(numbers, wanted):
    got = jax.jit(norm)({"a": jnp.array(numbers), "b": jnp.zeros((0, 3))})
    np.testing.assert_array_equal(got, wanted)


def test_the_direction_is_right_in_double_precision_too(x64):
    params = {"a": jnp.zeros(2)}
    for size in (1e-300, 1e-150, 1.0, 1e150, 1e300):
        gradient = {"a": size * jnp.array([3.0, -4.0])}
        point = jax.jit(perturb)(params, gradient, 0.5)
        np.testing.assert_allclose(point.params["a"], [0.3, -0.4], rtol=1e-14)
        np.testing.assert_allclose(point.norm, 5 * size, rtol=1e-14)
