"""The Hessian's eigenvalues, trace and density, against dense Hessians and formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_network as small
from jax.flatten_util import ravel_pytree

import focal_sam_jax as fsam
from focal_sam_jax.sharpness._spectrum import lanczos

sharpness = fsam.sharpness
KEY = jax.random.key(0)
EVERY_CLASS = pytest.mark.parametrize("c", range(small.CLASSES))


def one_class(c):
    return jnp.eye(small.CLASSES)[c]


def spectrum_of(matrix):
    return np.linalg.eigvalsh(np.asarray(matrix))


@EVERY_CLASS
def test_top_eigenpairs_are_those_of_the_dense_hessian(x64, c):
    params, losses = small.network(), small.class_losses()
    dense = small.dense_hessian(params, one_class(c))
    top = sharpness.top_eigenpairs(losses, params, one_class(c), k=4, key=KEY)
    np.testing.assert_allclose(top.values, spectrum_of(dense)[::-1][:4], atol=1e-9)
    vectors = jax.vmap(lambda tree: ravel_pytree(tree)[0])(top.vectors)
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(4), atol=1e-9)
    np.testing.assert_allclose(
        vectors @ dense, top.values[:, None] * vectors, atol=1e-8
    )
    assert jax.tree.structure(top.vectors) == jax.tree.structure(params)


def test_residuals_say_how_far_an_eigenvalue_is_at_most(x64):
    params, losses = small.network(), small.class_losses()
    dense = small.dense_hessian(params, 1.0)
    top = sharpness.top_eigenpairs(losses, params, 1.0, k=2, key=KEY, steps=6)
    vectors = jax.vmap(lambda tree: ravel_pytree(tree)[0])(top.vectors)
    for value, vector, residual in zip(top.values, vectors, top.residuals, strict=True):
        off = np.linalg.norm(dense @ vector - value * vector)
        np.testing.assert_allclose(residual, off, rtol=1e-6)
        assert np.min(np.abs(spectrum_of(dense) - value)) <= residual


def test_eigenvalues_that_come_several_times_are_found_so_often(x64):
    matrix = jnp.diag(jnp.array([5.0, 5.0, 5.0, 2.0, 2.0, -1.0, 0.0]))
    losses = small.quadratic(matrix)
    top = sharpness.top_eigenpairs(losses, jnp.ones(7), 1.0, k=7, key=KEY)
    np.testing.assert_allclose(
        top.values, [5.0, 5.0, 5.0, 2.0, 2.0, 0.0, -1.0], atol=1e-9
    )


def test_a_loss_without_curvature_has_zeros(x64):
    losses = small.quadratic(jnp.zeros((4, 4)), jnp.ones(4))
    top = sharpness.top_eigenpairs(losses, jnp.ones(4), 1.0, k=2, key=KEY)
    assert np.all(np.abs(top.values) < 1e-12)
    mean, error = sharpness.trace(losses, jnp.ones(4), 1.0, key=KEY)
    assert mean == 0 and error == 0


def test_the_largest_is_not_that_of_the_largest_magnitude(x64):
    losses = small.quadratic(jnp.diag(jnp.array([-9.0, 1.0, 0.5])))
    top = sharpness.top_eigenpairs(losses, jnp.ones(3), 1.0, key=KEY)
    np.testing.assert_allclose(top.values, [1.0], atol=1e-10)


@pytest.mark.slow
def test_float32_is_enough_for_a_wide_spectrum():
    size = 300
    eigenvalues = np.concatenate([[100.0, 50.0, 20.0], np.geomspace(1, 1e-6, size - 3)])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))[0]
    matrix = jnp.asarray(turn @ np.diag(eigenvalues) @ turn.T, jnp.float32)
    losses = small.quadratic((matrix + matrix.T) / 2)
    top = sharpness.top_eigenpairs(losses, jnp.ones(size), 1.0, k=3, key=KEY)
    np.testing.assert_allclose(top.values, [100.0, 50.0, 20.0], rtol=1e-4)


@pytest.mark.slow
def test_the_basis_stays_orthogonal_where_plain_lanczos_loses_it():
    size, steps = 400, 120
    matrix = jnp.diag(jnp.asarray(np.geomspace(1e3, 1e-3, size), jnp.float32))
    small_one = lanczos(lambda v: matrix @ v, jnp.ones(size), steps, KEY)
    np.testing.assert_allclose(
        small_one.basis @ small_one.basis.T, np.eye(steps), atol=1e-5
    )
    again = small_one.basis @ matrix @ small_one.basis.T
    t = np.diag(small_one.alpha)
    t += np.diag(small_one.beta[:-1], 1) + np.diag(small_one.beta[:-1], -1)
    np.testing.assert_allclose(again, t, atol=5e-3)


def test_matfree_comes_to_the_same_small_matrix(x64):
    decomp = pytest.importorskip("matfree.decomp", reason="needs the extra test")
    size, steps = 50, 20
    matrix = jax.random.normal(jax.random.key(4), (size, size), float)
    matrix = matrix + matrix.T
    start = jax.random.normal(jax.random.key(5), (size,), float)
    ours = lanczos(lambda v: matrix @ v, start, steps, KEY)
    theirs = decomp.tridiag_sym(steps, materialize=False)
    found = theirs(lambda v: matrix @ v, start)
    alpha, beta = found.J_small
    np.testing.assert_allclose(ours.alpha, alpha, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ours.beta[:-1], beta, rtol=1e-9)
    np.testing.assert_allclose(ours.basis, found.Q_tall, atol=1e-8)


@EVERY_CLASS
def test_the_trace_is_within_its_error(x64, c):
    params, losses = small.network(), small.class_losses()
    wanted = np.trace(small.dense_hessian(params, one_class(c)))
    mean, error = sharpness.trace(losses, params, one_class(c), key=KEY, samples=12)
    assert abs(mean - wanted) < 4 * error


@pytest.mark.slow
def test_errors_of_the_trace_are_as_large_as_they_say(x64):
    size = 12
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(size, size)))[0]
    matrix = jnp.asarray(turn @ np.diag(np.arange(1.0, size + 1)) @ turn.T)
    losses = small.quadratic(matrix)

    def estimate(key):
        return sharpness.trace(losses, jnp.ones(size), 1.0, key=key, samples=4)

    means, errors = jax.vmap(estimate)(jax.random.split(KEY, 2000))
    wanted = size * (size + 1) / 2
    assert abs(means.mean() - wanted) < 4 * means.std() / np.sqrt(len(means))
    np.testing.assert_allclose(
        np.sqrt(np.mean((means - wanted) ** 2)),
        np.sqrt(np.mean(errors**2)),
        rtol=0.1,
    )


def test_the_density_has_the_moments_of_the_spectrum(x64):
    params, losses = small.network(), small.class_losses()
    eigenvalues = spectrum_of(small.dense_hessian(params, 1.0))
    samples = 400
    found = jax.jit(
        lambda params: sharpness.spectral_density(
            losses, params, 1.0, key=KEY, steps=12, samples=samples
        )
    )(params)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1.0, rtol=1e-9)
    for power in (1, 2, 3):
        of_sample = np.sum(found.weights * found.nodes**power, axis=1)
        error = of_sample.std(ddof=1) / np.sqrt(samples)
        assert abs(of_sample.mean() - np.mean(eigenvalues**power)) < 4 * error


def test_with_all_steps_the_nodes_are_the_eigenvalues(x64):
    params, losses = small.network(), small.class_losses()
    eigenvalues = spectrum_of(small.dense_hessian(params, 1.0))
    found = sharpness.spectral_density(losses, params, 1.0, key=KEY, steps=1000)
    np.testing.assert_allclose(np.sort(found.nodes[0]), eigenvalues, atol=1e-9)


@pytest.mark.slow
def test_times_n_its_first_moment_is_hutchinsons_trace(x64):
    params, losses = small.network(), small.class_losses()
    size = ravel_pytree(params)[0].size
    wanted = np.trace(small.dense_hessian(params, 1.0))
    found = jax.jit(
        lambda params: sharpness.spectral_density(
            losses, params, 1.0, key=KEY, steps=10, samples=200
        )
    )(params)
    traces = size * np.sum(found.nodes * found.weights, axis=1)
    assert abs(traces.mean() - wanted) < 4 * traces.std() / np.sqrt(200)


def test_a_density_integrates_to_one():
    found = sharpness.Spectrum(
        jnp.array([[0.0, 1.0], [0.0, 3.0]]), jnp.array([[0.9, 0.1], [0.5, 0.5]])
    )
    grid = jnp.linspace(-2, 5, 2000)
    density = found.density(grid, 0.1)
    assert density.shape == grid.shape
    step = float(grid[1] - grid[0])
    np.testing.assert_allclose(density.sum() * step, 1.0, rtol=1e-3)
    near_zero = np.asarray(grid) < 0.5
    np.testing.assert_allclose(density[near_zero].sum() * step, 0.7, rtol=1e-3)


@pytest.mark.slow
def test_inside_jit_it_is_the_same(x64):
    params, losses = small.network(), small.class_losses()

    def all_of_it(params, key):
        top = sharpness.top_eigenpairs(losses, params, 1.0, k=2, key=key)
        density = sharpness.spectral_density(losses, params, 1.0, key=key, steps=6)
        return (
            top.values,
            jnp.sum(density.nodes * density.weights),
            sharpness.trace(losses, params, 1.0, key=key, samples=3),
        )

    for ours, compiled in zip(
        jax.tree.leaves(all_of_it(params, KEY)),
        jax.tree.leaves(jax.jit(all_of_it)(params, KEY)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, compiled, rtol=1e-8, atol=1e-10)


@pytest.mark.slow
def test_narrow_parameters_have_wide_eigenvalues():
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), small.network())
    top = sharpness.top_eigenpairs(small.class_losses(), params, 1.0, key=KEY, steps=5)
    assert top.values.dtype == jnp.float32 and np.isfinite(top.values[0])
    assert jax.tree.leaves(top.vectors)[0].dtype == jnp.float32


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": 0}, "k must be a whole number of at least 1, got 0"),
        ({"k": 4}, "k must be at most the number of parameters, 3, got 4"),
        ({"k": 2, "steps": 1}, "steps must be a whole number of at least 2, got 1"),
    ],
)
def test_mistakes_are_explained(options, said):
    losses = small.quadratic(jnp.eye(3))
    with pytest.raises(ValueError, match=said):
        sharpness.top_eigenpairs(losses, jnp.ones(3), 1.0, key=KEY, **options)


def test_at_least_one_of_everything():
    losses, w = small.quadratic(jnp.eye(3)), jnp.ones(3)
    with pytest.raises(ValueError, match="samples must be a whole number"):
        sharpness.trace(losses, w, 1.0, key=KEY, samples=0)
    for name in ("steps", "samples"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number"):
            sharpness.spectral_density(losses, w, 1.0, key=KEY, **{name: 0})
