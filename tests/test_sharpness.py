"""Tests of sharpness: against formulas, against each other, in every form."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_network as small
from hypothesis import given, settings
from hypothesis import strategies as st

import focal_sam_jax as fsam

sharpness = fsam.sharpness
CURVED = np.diag([4.0, 1.0, 0.25])
KEY = jax.random.key(0)


def test_of_a_linear_loss_it_is_the_slope_times_the_radius():
    slope = jnp.array([3.0, 0.0, -4.0])
    losses = small.quadratic(jnp.zeros((3, 3)), slope)
    rise = sharpness.sharpness(losses, jnp.ones(3), 1.0, rho=0.2)
    np.testing.assert_allclose(rise, 5.0 * 0.2, rtol=1e-5)


def test_in_an_adaptive_ball_weights_count_by_their_size():
    slope, w = jnp.array([3.0, 1.0, -4.0]), jnp.array([2.0, 0.0, -1.0])
    losses = small.quadratic(jnp.zeros((3, 3)), slope)
    rise = sharpness.sharpness(losses, w, 1.0, rho=0.2, adaptive=True)
    wanted = 0.2 * np.linalg.norm(np.abs(w) * slope)
    np.testing.assert_allclose(rise, wanted, rtol=1e-5)


def test_an_adaptive_ball_does_not_see_the_scale_of_layers():
    def network(params):
        out = jnp.tanh(params["b"] * (params["a"] @ jnp.array([0.3, -0.5])))
        return jnp.stack([out**2, jnp.zeros(())])

    losses = sharpness.class_losses(network)
    params = {"a": jnp.array([1.0, 2.0]), "b": jnp.array(0.7)}
    scaled = {"a": 10 * params["a"], "b": params["b"] / 10}
    options = {"rho": 0.3, "adaptive": True, "steps": 3}
    here, there = (
        sharpness.sharpness(losses, p, 1.0, **options) for p in (params, scaled)
    )
    np.testing.assert_allclose(here, there, rtol=1e-4)
    plain = (sharpness.sharpness(losses, p, 1.0, rho=0.3) for p in (params, scaled))
    assert not np.isclose(*plain, rtol=0.1)


def test_at_the_minimum_only_an_ascent_from_elsewhere_climbs():
    losses, w = small.quadratic(jnp.asarray(CURVED, jnp.float32)), jnp.zeros(3)
    assert sharpness.sharpness(losses, w, 1.0, rho=0.5) == 0
    rise = sharpness.sharpness(losses, w, 1.0, rho=0.5, steps=60, restarts=3, key=KEY)
    np.testing.assert_allclose(rise, 4.0 / 2 * 0.5**2, rtol=1e-3)


def test_an_ascent_finds_the_maximum_on_the_sphere(x64):
    slope = jnp.array([0.1, 1.0, 1.0])
    losses, w = small.quadratic(jnp.asarray(CURVED), slope), jnp.zeros(3)
    rho = 0.8
    # Trust region: (mu I - A) e = b, with the multiplier mu for which |e| = rho.
    low, high = 4.0 + 1e-9, 1e3
    for _ in range(200):
        mu = (low + high) / 2
        e = np.linalg.solve(mu * np.eye(3) - CURVED, slope)
        low, high = (mu, high) if np.linalg.norm(e) > rho else (low, mu)
    wanted = e @ CURVED @ e / 2 + slope @ e
    one = sharpness.sharpness(losses, w, 1.0, rho=rho)
    many = sharpness.sharpness(losses, w, 1.0, rho=rho, steps=200)
    assert one < 0.95 * wanted
    np.testing.assert_allclose(many, wanted, rtol=1e-3)
    assert many <= wanted * (1 + 1e-9)


@pytest.mark.slow
def test_focal_sharpness_is_what_the_transform_sees():
    params = small.network()
    tx = fsam.focal_sam(small.COUNTS, rho=0.1, gamma=2.0)

    def of_batch(params):
        return small.loss(params, *small.data())

    grads = jax.grad(lambda p: of_batch(p).sum())(params)
    _, state = tx.update(grads, tx.init(params), params, per_class_loss_fn=of_batch)
    got = sharpness.focal_sharpness(
        small.class_losses(), params, small.COUNTS, rho=0.1, gamma=2.0
    )
    np.testing.assert_allclose(got, optax.tree.get(state, "sharpness"), rtol=1e-4)


def test_every_class_has_a_ball_of_its_own():
    params, losses = small.network(), small.class_losses()
    of_classes = sharpness.class_sharpness(losses, params, 0.1)
    assert of_classes.shape == (small.CLASSES,)
    for c in range(small.CLASSES):
        alone = sharpness.sharpness(losses, params, jnp.eye(small.CLASSES)[c], rho=0.1)
        np.testing.assert_allclose(of_classes[c], alone, rtol=1e-6)


def test_a_class_without_examples_is_flat():
    losses = small.quadratic(jnp.eye(3), jnp.ones(3))
    for options in ({}, {"steps": 3, "restarts": 2, "key": KEY}, {"adaptive": True}):
        rises = sharpness.class_sharpness(losses, jnp.ones(3), 0.1, **options)
        assert rises[0] > 0 and rises[1] == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.001, 2.0), st.booleans())
def test_more_steps_find_no_less(seed, rho, adaptive):
    params, losses = small.network(seed), small.class_losses()
    options = {"rho": rho, "adaptive": adaptive}
    one = sharpness.class_sharpness(losses, params, **options)
    more = sharpness.class_sharpness(
        losses, params, **options, steps=3, restarts=2, key=KEY
    )
    assert np.all(more >= one - 1e-6)
    assert np.all(more >= -1e-6)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.1, 100.0))
def test_it_grows_with_the_weights_of_the_classes(seed, factor):
    params, losses = small.network(seed), small.class_losses()
    weights = jnp.array([0.3, 1.0, 0.0])
    one = sharpness.sharpness(losses, params, weights, rho=0.1)
    more = sharpness.sharpness(losses, params, factor * weights, rho=0.1)
    np.testing.assert_allclose(more, factor * one, rtol=1e-3, atol=1e-6 * factor)


def test_no_radius_no_rise():
    params, losses = small.network(), small.class_losses()
    rises = sharpness.class_sharpness(losses, params, 0.0, steps=2)
    assert np.all(np.asarray(rises) == 0)
    mean, error = sharpness.average_sharpness(losses, params, 0.0, KEY, samples=3)
    assert np.all(np.asarray(mean) == 0) and np.all(np.asarray(error) == 0)


@pytest.mark.slow
def test_the_average_of_a_quadratic_is_its_trace(x64):
    matrix = jax.random.normal(jax.random.key(3), (30, 30), float)
    matrix = matrix @ matrix.T
    losses = small.quadratic(matrix, jnp.arange(30.0))
    mean, error = sharpness.average_sharpness(
        losses, jnp.ones(30), 0.4, KEY, samples=400
    )
    wanted = 0.4**2 / (2 * 30) * float(jnp.trace(matrix))
    assert abs(mean[0] - wanted) < 4 * error[0]
    # A slope of any size adds no error.
    assert error[0] < 0.1 * wanted


def test_the_average_in_an_adaptive_ball():
    losses = small.quadratic(jnp.diag(jnp.array([1.0, 1.0, 0.0])))
    w = jnp.array([3.0, 0.0, 5.0])
    mean, error = sharpness.average_sharpness(
        losses, w, 0.3, KEY, samples=500, adaptive=True
    )
    wanted = 0.3**2 / (2 * 3) * 3.0**2
    assert abs(mean[0] - wanted) < 4 * error[0]


@pytest.mark.slow
def test_errors_are_as_large_as_they_say():
    losses, w = small.quadratic(jnp.asarray(CURVED, jnp.float32)), jnp.zeros(3)

    def estimate(key):
        return sharpness.average_sharpness(losses, w, 0.5, key, samples=12)

    means, errors = jax.vmap(estimate)(jax.random.split(KEY, 500))
    np.testing.assert_allclose(
        np.std(means[:, 0]), np.sqrt(np.mean(errors[:, 0] ** 2)), rtol=0.15
    )


def test_one_draw_has_no_error():
    losses = small.quadratic(jnp.eye(3))
    mean, error = sharpness.average_sharpness(losses, jnp.ones(3), 0.1, KEY, samples=1)
    assert mean[0] > 0 and np.isnan(error[0])


@pytest.mark.slow
@pytest.mark.parametrize("adaptive", [False, True])
def test_inside_jit_it_is_the_same(adaptive):
    params, losses = small.network(), small.class_losses()

    def all_of_it(params):
        options = {"adaptive": adaptive, "steps": 3, "restarts": 2, "key": KEY}
        return (
            sharpness.class_sharpness(losses, params, 0.1, **options),
            sharpness.focal_sharpness(losses, params, small.COUNTS, 0.1, 1.0),
            sharpness.average_sharpness(losses, params, 0.1, KEY, samples=4).mean,
            sharpness.bound_terms(losses, params, small.COUNTS, 0.1, 1.0),
        )

    for ours, compiled in zip(
        jax.tree.leaves(all_of_it(params)),
        jax.tree.leaves(jax.jit(all_of_it)(params)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, compiled, rtol=2e-3, atol=1e-6)


def test_narrow_parameters_are_measured_in_wide_numbers():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), small.network())
    losses = small.class_losses()
    rises = sharpness.class_sharpness(losses, params, 0.3, steps=2)
    assert rises.dtype == jnp.float32 and np.all(np.isfinite(rises))
    mean, _ = sharpness.average_sharpness(losses, params, 0.3, KEY)
    assert np.all(np.isfinite(mean))


def test_the_terms_of_the_bound():
    params, losses = small.network(), small.class_losses()
    terms = sharpness.bound_terms(losses, params, small.COUNTS, 0.1, 2.0)
    values = losses.values(params)
    np.testing.assert_allclose(terms.class_losses, values)
    np.testing.assert_allclose(terms.empirical_loss, values.sum(), rtol=1e-6)
    np.testing.assert_allclose(
        terms.focal_sharpness,
        sharpness.focal_sharpness(losses, params, small.COUNTS, 0.1, 2.0),
    )
    leaves = jax.tree.leaves(params)
    assert terms.num_parameters == sum(leaf.size for leaf in leaves)
    norm = np.sqrt(sum(float((leaf**2).sum()) for leaf in leaves))
    np.testing.assert_allclose(terms.parameter_norm, norm, rtol=1e-6)
    assert terms.class_counts.tolist() == small.COUNTS.tolist()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rho": -0.1}, "rho must be a finite number >= 0, got -0.1"),
        ({"rho": float("nan")}, "rho must be a finite number >= 0"),
        ({"rho": 0.1, "steps": 0}, "steps must be a whole number of at least 1, got 0"),
        ({"rho": 0.1, "restarts": 0}, "restarts must be a whole number"),
        ({"rho": 0.1, "restarts": 2}, "pass key=jax.random.key"),
    ],
)
def test_mistakes_are_explained(options, said):
    losses = small.quadratic(jnp.eye(3))
    with pytest.raises(ValueError, match=said):
        sharpness.sharpness(losses, jnp.ones(3), 1.0, **options)
    with pytest.raises(ValueError, match="samples must be a whole number"):
        sharpness.average_sharpness(losses, jnp.ones(3), 0.1, KEY, samples=0)
