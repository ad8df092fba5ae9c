"""Slices of the loss landscape."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_network as small

import focal_sam_jax as fsam

sharpness = fsam.sharpness
KEY = jax.random.key(0)


def test_every_filter_of_a_direction_is_as_long_as_the_networks():
    params = {
        "conv": jax.random.normal(KEY, (3, 3, 4, 6))
        * jnp.arange(6.0)[None, None, None],
        "dense": jax.random.normal(KEY, (5, 2), jnp.bfloat16),
        "scale": jnp.ones(7),
        "temperature": jnp.array(2.0),
    }
    direction = sharpness.filter_normalised(params, jax.random.key(1))
    for name, axes in (("conv", (0, 1, 2)), ("dense", (0,))):
        wanted = np.linalg.norm(
            np.asarray(params[name], np.float32).reshape(-1, params[name].shape[-1]),
            axis=0,
        )
        got = np.sqrt(np.sum(np.asarray(direction[name]) ** 2, axis=axes))
        np.testing.assert_allclose(got, wanted, rtol=1e-5)
        assert direction[name].dtype == jnp.float32
    assert not np.any(direction["scale"]) and direction["temperature"] == 0


def test_a_layer_scaled_up_is_seen_alike():
    # The loss ignores the scale, like BatchNorm.
    def loss(params):
        weights = params["w"] / jnp.linalg.norm(params["w"], axis=0, keepdims=True)
        return jnp.stack([jnp.sum(weights[0] ** 2), jnp.sum(weights[1] ** 2)])

    losses = sharpness.class_losses(loss)
    params = {"w": jax.random.normal(KEY, (4, 3))}
    scaled = {"w": 10 * params["w"]}
    steps = jnp.linspace(-1, 1, 5)
    ours, theirs = (
        sharpness.slice_1d(losses, p, sharpness.filter_normalised(p, KEY), steps)
        for p in (params, scaled)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_a_line_is_the_losses_along_it():
    params, losses = small.network(), small.class_losses()
    direction = small.network(seed=5)
    steps = jnp.array([-0.5, 0.0, 2.0])
    line = sharpness.slice_1d(losses, params, direction, steps)
    for step, of_step in zip(steps, line, strict=True):
        moved = jax.tree.map(lambda a, b, s=step: a + s * b, params, direction)
        np.testing.assert_allclose(of_step, losses.values(moved), rtol=1e-5)


def test_a_plane_holds_its_lines():
    params, losses = small.network(), small.class_losses()
    first, second = small.network(seed=5), small.network(seed=6)
    ahead, aside = jnp.array([-0.1, 0.0, 0.3, 0.4]), jnp.array([0.0, 0.2])
    plane = sharpness.slice_2d(losses, params, (first, second), (ahead, aside))
    assert plane.shape == (4, 2, small.CLASSES)
    np.testing.assert_allclose(
        plane[:, 0], sharpness.slice_1d(losses, params, first, ahead), rtol=1e-5
    )
    np.testing.assert_allclose(
        plane[1], sharpness.slice_1d(losses, params, second, aside), rtol=1e-5
    )


@pytest.mark.slow
def test_along_an_eigenvector_it_curves_by_the_eigenvalue(x64):
    params, losses = small.network(), small.class_losses()
    top = sharpness.top_eigenpairs(losses, params, 1.0, key=KEY)
    direction = jax.tree.map(lambda leaf: leaf[0], top.vectors)
    h = 1e-3
    line = sharpness.slice_1d(losses, params, direction, jnp.array([-h, 0.0, h]))
    behind, here, ahead = line.sum(axis=1)
    np.testing.assert_allclose(
        (ahead - 2 * here + behind) / h**2, top.values[0], rtol=1e-4
    )


def test_inside_jit_it_is_the_same():
    params, losses = small.network(), small.class_losses()

    def plane(params):
        directions = tuple(
            sharpness.filter_normalised(params, key) for key in jax.random.split(KEY)
        )
        steps = jnp.linspace(-1, 1, 3), jnp.linspace(0, 1, 2)
        return sharpness.slice_2d(losses, params, directions, steps)

    np.testing.assert_allclose(plane(params), jax.jit(plane)(params), rtol=1e-4)


def test_narrow_parameters_stay_narrow_on_the_way():
    seen = []

    def loss(w):
        seen.append(w.dtype)
        return jnp.stack([jnp.sum(w.astype(jnp.float32) ** 2), jnp.zeros(())])

    losses = sharpness.class_losses(loss)
    w = jnp.ones((3, 2), jnp.bfloat16)
    direction = sharpness.filter_normalised(w, KEY)
    line = sharpness.slice_1d(losses, w, direction, jnp.array([0.0, 1.0]))
    assert set(seen) == {jnp.dtype(jnp.bfloat16)} and line.dtype == jnp.float32


@pytest.mark.parametrize("steps", [[], 1.0])
def test_steps_are_a_list_of_some(steps):
    losses = fsam.sharpness.class_losses(lambda w: w)
    with pytest.raises(ValueError, match="steps must have shape"):
        fsam.sharpness.slice_1d(losses, jnp.ones(2), jnp.ones(2), steps)
