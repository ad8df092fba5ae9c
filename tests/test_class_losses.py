"""Tests of ``sharpness.class_losses``: batches, derivatives, errors."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_network as small
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import focal_sam_jax as fsam

sharpness = fsam.sharpness


@pytest.mark.by_default(c=(0,))
@pytest.mark.parametrize("c", range(small.CLASSES))
def test_products_are_those_with_the_dense_hessian(x64, c):
    params, losses = small.network(), small.class_losses()
    weights = jnp.eye(small.CLASSES)[c]
    flat, unravel = ravel_pytree(params)
    vector = jax.random.normal(jax.random.key(2), flat.shape, float)
    got = ravel_pytree(losses.product(params, weights, unravel(vector)))[0]
    wanted = small.dense_hessian(params, weights) @ np.asarray(vector)
    np.testing.assert_allclose(got, wanted, rtol=1e-10, atol=1e-12)


def test_batches_add_up_to_the_whole(x64):
    params, whole = small.network(), small.class_losses()
    x, y = small.data()
    cuts = [(x[a:b], y[a:b]) for a, b in ((0, 3), (3, 15), (15, 20))]
    parts = sharpness.class_losses(small.loss, cuts)
    weights = jnp.array([0.5, 2.0, 1.0])
    direction = small.network(seed=7)
    for of_parts, of_whole in (
        (parts.values(params), whole.values(params)),
        (parts.gradient(params, weights), whole.gradient(params, weights)),
        (
            parts.product(params, weights, direction),
            whole.product(params, weights, direction),
        ),
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14),
            of_parts,
            of_whole,
        )


@pytest.mark.slow
def test_batches_may_come_from_anywhere_again_and_again():
    class FromDisk:
        reads = 0

        def __iter__(self):
            self.reads += 1
            x, y = small.data()
            yield x[:8], y[:8]
            yield x[8:], y[8:]

    disk = FromDisk()
    params, losses = small.network(), sharpness.class_losses(small.loss, disk)
    rise = sharpness.class_sharpness(losses, params, 0.1)
    wanted = sharpness.class_sharpness(small.class_losses(), params, 0.1)
    np.testing.assert_allclose(rise, wanted, rtol=1e-4, atol=1e-7)
    assert disk.reads > small.CLASSES


def test_one_compilation_serves_all_batches_and_classes():
    traced = []

    def counted(params, x, y):
        traced.append(x.shape)
        return small.loss(params, x, y)

    x, y = small.data()
    params = small.network()
    losses = sharpness.class_losses(counted)
    for cut in (4, 10):
        some = losses.over([(x[:cut], y[:cut])] * 3)
        sharpness.class_sharpness(some, params, 0.1)
    alone = len(traced)
    sharpness.class_sharpness(losses.over([(x[5:9], y[5:9])]), params, 0.2)
    assert len(traced) == alone


def test_what_was_compiled_goes_with_the_losses():
    x, y = small.data()
    weight = np.ones(3)
    held = weakref.ref(weight)

    def measure(weight):
        def scaled(params):
            return jnp.asarray(weight) * small.loss(params, x, y)

        losses = sharpness.class_losses(scaled)
        sharpness.class_sharpness(losses, small.network(), 0.1)
        losses.product(small.network(), 1.0, small.network())

    measure(weight)
    del weight
    gc.collect()
    assert held() is None


def test_a_list_of_functions_and_a_callable_without_a_hash():
    class Loss:
        __hash__ = None

        def __call__(self, params, x, y):
            return small.loss(params, x, y)

    functions = [lambda p, x, y, c=c: small.loss(p, x, y)[c] for c in range(3)]
    params = small.network()
    wanted = small.class_losses().gradient(params, small.COUNTS)
    for given in (Loss(), functions):
        losses = sharpness.class_losses(given, [small.data()])
        got = losses.gradient(params, small.COUNTS)
        for a, b in zip(*map(jax.tree.leaves, (got, wanted)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_batch_split_over_devices_gives_the_same_numbers():
    x, y = (jnp.tile(a, (2,) + (1,) * (a.ndim - 1)) for a in small.data())
    params = small.network()
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    alone = sharpness.class_losses(small.loss, [(x, y)])
    shared = sharpness.class_losses(small.loss, [jax.device_put((x, y), split)])
    everywhere = jax.device_put(params, whole)
    key = jax.random.key(0)
    for measured in (
        lambda losses, params: sharpness.class_sharpness(losses, params, 0.1, steps=2),
        lambda losses, params: (
            sharpness.trace(losses, params, 1.0, key=key, samples=3).mean
        ),
        lambda losses, params: (
            sharpness.top_eigenpairs(losses, params, 1.0, key=key, steps=8).values
        ),
    ):
        np.testing.assert_allclose(
            measured(shared, everywhere), measured(alone, params), rtol=2e-4, atol=1e-6
        )


def test_batches_that_end_are_refused():
    with pytest.raises(TypeError, match="iterated many times, got generator"):
        sharpness.class_losses(small.loss, (batch for batch in [small.data()]))


def test_no_batch_is_an_error():
    losses = sharpness.class_losses(small.loss, [])
    with pytest.raises(ValueError, match="at least one batch, got none"):
        losses.values(small.network())


def test_a_mean_is_refused():
    losses = sharpness.class_losses(lambda w: jnp.sum(w))
    with pytest.raises(ValueError, match="did you take the mean"):
        losses.values(jnp.ones(3))


@pytest.mark.parametrize("batch", [jnp.ones(2), {"x": jnp.ones(2)}])
def test_a_batch_is_a_tuple_of_arguments(batch):
    losses = fsam.sharpness.class_losses(lambda w, x: w * x, [batch])
    with pytest.raises(TypeError, match=r"must be a tuple .* pass \(x,\)"):
        losses.values(jnp.ones(2))


def test_classes_are_counted_without_reading_all_batches():
    class Counted:
        read = 0

        def __iter__(self):
            for x in (1.0, 2.0, 3.0):
                self.read += 1
                yield (jnp.array([x, x]),)

    batches = Counted()
    losses = fsam.sharpness.class_losses(lambda w, x: w**2 * x, batches)
    fsam.sharpness.class_sharpness(losses, jnp.ones(2), rho=0.1)
    # A gradient and two evaluations for each of two classes, and one batch.
    assert batches.read == 2 * 3 * 3 + 1
