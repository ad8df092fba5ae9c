"""The same numbers on one device and on eight, however the batch is split."""

import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, reshard
from jax.sharding import PartitionSpec as P

import focal_sam_jax as fsam

DEVICES, CLASSES = 8, 3
COUNTS = (60, 15, 5)
# In this order the devices see different classes, and only two see the rarest.
LABELS = np.array([0] * 9 + [1] * 3 + [0, 2, 1, 2])
BOTH_AXES = ("data", "model")


def transform(make, *args, shared=False, **kwargs):
    """Makes a step: one update from given gradients, ``(updates, info)``."""

    def with_axis(**axis):
        tx = make(*args, **kwargs, **axis)

        def step(grads, params, loss_fn):
            promise = {"per_example_labels": loss_fn.labels} if shared else {}
            updates, state = tx.update(
                grads, tx.init(params), params, per_class_loss_fn=loss_fn, **promise
            )
            return updates, state.info

        return step

    return with_axis


def evaluated(make, *args, **kwargs):
    """Makes a step: one update from an evaluation, which computes the gradients."""

    def with_axis(**axis):
        tx = make(*args, **kwargs, **axis)
        evaluate = partial(fsam.evaluate, axis_name=axis.get("axis_name"))

        def step(_, params, loss_fn):
            here = evaluate(loss_fn, params)
            updates, state = tx.update(
                here.grads,
                tx.init(problem()[0]),
                params,
                per_class_loss_fn=loss_fn,
                evaluation=here,
            )
            return updates, optax.tree.get(state, "info")

        return step

    return with_axis


def approximation(make):
    """Makes a step: the second of two updates at the same parameters."""

    def with_axis(**axis):
        tx = make(**axis)

        def step(grads, params, loss_fn):
            # Shared by the devices, even if the parameters are marked as varying.
            state = tx.init(problem()[0])
            for _ in range(2):
                updates, state = tx.update(
                    grads, state, params, per_class_loss_fn=loss_fn
                )
            return updates, optax.tree.get(state, "info")

        return step

    return with_axis


def looksam(**axis):
    exact = fsam.focal_sam(COUNTS, rho=0.5, gamma=2.0, lam=0.8, **axis)
    return fsam.looksam(exact, every=2)


def engine(make, *args, **kwargs):
    """Makes a step: ``(loss, gradient)`` of an engine, without given gradients."""

    def with_axis(**axis):
        return lambda _, params, loss_fn: make(loss_fn, *args, **kwargs, **axis)(params)

    return with_axis


def shared_engine(*args, **kwargs):
    def make(loss_fn, *args, **kwargs):
        promise = {"per_example_labels": lambda: loss_fn.labels}
        return fsam.sharpness_aware_value_and_grad(loss_fn, *args, **kwargs, **promise)

    return engine(make, *args, **kwargs)


SYNCHRONISED = {
    "focal_sam": transform(fsam.focal_sam, COUNTS, rho=0.5, gamma=2.0, lam=0.8),
    "sam": transform(fsam.sam, rho=0.5, mask={"in": True, "out": False}),
    "imbsam": transform(fsam.imbsam, COUNTS, rho=0.5, adaptive=True),
    "focal engine": engine(fsam.sharpness_aware_value_and_grad, (0.2, 0.6, 1), rho=0.5),
    "evaluated focal_sam": evaluated(
        fsam.focal_sam, COUNTS, rho=0.5, gamma=2.0, lam=0.8
    ),
    "evaluated sam": evaluated(fsam.sam, rho=0.5, mask={"in": True, "out": False}),
}
# Two of these with one shared backward pass.
SHARED = {
    "shared focal_sam": transform(
        fsam.focal_sam, COUNTS, rho=0.5, gamma=2.0, lam=0.8, shared=True
    ),
    "shared focal engine": shared_engine((0.2, 0.6, 1), rho=0.5),
}
SYNCHRONISED |= SHARED
METHODS = SYNCHRONISED | {
    "cc_sam": transform(fsam.cc_sam, COUNTS, rho=0.5, alpha=0.7),
    "cc_sam on gpu": transform(fsam.cc_sam, COUNTS, rho=0.5, alpha=0.7),
    "cc engine": engine(fsam.class_conditional_value_and_grad, (0.3, 0.4, 0.5)),
    "reuse_ascent": approximation(
        partial(fsam.reuse_ascent, (0.2, 0.6, 1), rho=0.5, lam=0.8, adaptive=True)
    ),
    "reuse_ascent as sam": approximation(partial(fsam.reuse_ascent, rho=0.5)),
    "looksam": approximation(looksam),
    "evaluated cc_sam": evaluated(fsam.cc_sam, COUNTS, rho=0.5, alpha=0.7),
    "evaluated looksam": evaluated(looksam),
}


@pytest.fixture
def method(request, monkeypatch):
    """Returns a method's name; "on gpu" selects the GPU's loop over classes."""
    if "on gpu" in request.param:
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    return request.param


every_method = pytest.mark.parametrize("method", METHODS, indirect=True)
# One of each kind: ascent by class weights, in balls, by a reused gradient.
KINDS = ("focal_sam", "cc_sam", "reuse_ascent")
some_by_default = pytest.mark.by_default(method=KINDS[:2])


@cache
def problem():
    rng = np.random.default_rng(0)
    shapes = [(8, 8), (8, CLASSES), (LABELS.size, 8)]
    first, last, x = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return {"in": first, "out": last}, (x, LABELS)


def product(weights, x):
    return x @ weights


def loss_of(batch, averaged_over=(), product=product):
    x, y = batch

    def loss_fn(params):
        h = jnp.tanh(fsam.apply_per_example(product, params["in"], x))
        logits = fsam.apply_per_example(product, params["out"], h)
        each = fsam.losses.cross_entropy(logits, y)
        losses = fsam.per_class_losses(each, y, CLASSES)
        return jax.lax.pmean(losses, averaged_over) if averaged_over else losses

    loss_fn.labels = y
    return loss_fn


def gradient(loss_fn, params):
    return jax.grad(lambda theta: loss_fn(theta).sum())(params)


@jax.jit(static_argnums=0)
def on_the_whole(step, params, batch):
    loss_fn = loss_of(batch)
    return step(gradient(loss_fn, params), params, loss_fn)


@cache
def numbers_of_one_device(method):
    # Without shared passes, even for methods that share some.
    if method == "evaluated looksam":
        method = "evaluated focal_sam"  # The first step is exact.
    name = method.removeprefix("shared ").removeprefix("evaluated ")
    return on_the_whole(METHODS[name](), *problem())


def assert_same(actual, wanted):
    """Compares norms leaf by leaf; ``actual`` may have an extra axis of devices."""
    assert jax.tree.structure(actual) == jax.tree.structure(wanted)
    for got, want in zip(jax.tree.leaves(actual), jax.tree.leaves(wanted), strict=True):
        got, want = np.asarray(got), np.asarray(want)
        for one in got.reshape(-1, *want.shape):
            assert np.linalg.norm(one - want) <= 1e-5 * np.linalg.norm(want)


def assert_different(actual, unwanted):
    """Checks that every matrix differs."""
    for got, other in zip(*map(jax.tree.leaves, (actual, unwanted)), strict=True):
        if np.ndim(got) == 2:
            assert np.linalg.norm(got - other) > 1e-2 * np.linalg.norm(other)


def mesh(*shape, explicit=False):
    kind = AxisType.Explicit if explicit else AxisType.Auto
    names = BOTH_AXES[: len(shape)]
    devices = np.array(jax.devices()).reshape(shape)
    return Mesh(devices, names, axis_types=(kind,) * len(shape))


# A transform needs the gradient averaged over the devices as its updates. How to
# compute it depends on whether JAX tracks varying values, and on whether the mean loss
# or the device's own is differentiated. Each recipe returns it, the parameters and the
# loss function.


def mean_of_own_gradients(params, batch, averaged_over=()):
    """Averages per-device gradients: without tracking, JAX does not sum them."""
    loss_fn = loss_of(batch, averaged_over)
    return jax.lax.pmean(gradient(loss_fn, params), "data"), params, loss_fn


def mean_of_own_gradients_of_mean_loss(params, batch):
    """Does the same with an averaged loss."""
    return mean_of_own_gradients(params, batch, averaged_over="data")


def gradient_of_mean_loss(params, batch):
    """With tracking, the gradient of the mean loss is the mean gradient."""
    mean_loss = loss_of(batch, "data")
    return gradient(mean_loss, params), params, mean_loss


def summed_gradients_divided(params, batch):
    """With tracking, gradients of shared parameters arrive summed over devices."""
    summed = gradient(loss_of(batch), params)
    return jax.tree.map(lambda g: g / DEVICES, summed), params, loss_of(batch)


def mean_of_gradients_of_varying_parameters(params, batch):
    """Marks the parameters as varying, to get unsummed gradients."""
    return mean_of_own_gradients(jax.lax.pcast(params, "data", to="varying"), batch)


def by_pmap(per_device, params, batch, mapped=jax.pmap):
    batch = jax.tree.map(lambda a: a.reshape(DEVICES, -1, *a.shape[1:]), batch)
    return mapped(per_device, axis_name="data", in_axes=(None, 0))(params, batch)


def by_vmap(per_device, params, batch):
    return jax.jit(partial(by_pmap, per_device, mapped=jax.vmap))(params, batch)


def by_shard_map(per_device, params, batch, devices=(DEVICES,), rows="data", **options):
    """Runs ``shard_map``; by default JAX proves that all devices have one result."""
    options = {"in_specs": (P(), P(rows)), "out_specs": P()} | options
    run = jax.shard_map(per_device, mesh=mesh(*devices), **options)
    return jax.jit(run)(params, batch)


def by_shard_map_stacked(per_device, params, batch, **options):
    """Stacks the results of all devices."""

    def stacked(*args):
        return jax.tree.map(lambda a: a[None], per_device(*args))

    return by_shard_map(stacked, params, batch, out_specs=P("data"), **options)


def by_unchecked_shard_map(per_device, params, batch):
    return by_shard_map_stacked(per_device, params, batch, check_vma=False)


RUNS = [
    (by_vmap, mean_of_own_gradients),
    (by_pmap, mean_of_own_gradients),
    (by_pmap, mean_of_own_gradients_of_mean_loss),
    (by_unchecked_shard_map, mean_of_own_gradients),
    (by_shard_map, gradient_of_mean_loss),
    (by_shard_map, summed_gradients_divided),
    (by_shard_map, mean_of_gradients_of_varying_parameters),
]


# Every method once without and once with tracking, one of each kind in all ways.
WAYS = [
    *itertools.product(METHODS, (RUNS[1], RUNS[5])),
    *itertools.product(KINDS, (*RUNS[:1], *RUNS[2:5], *RUNS[6:])),
]


@pytest.mark.parametrize(
    ("method", "way"),
    WAYS,
    indirect=["method"],
    ids=[
        f"{method}-{run.__name__}-{recipe.__name__}" for method, (run, recipe) in WAYS
    ],
)
@some_by_default
def test_every_device_gets_the_numbers_of_one(method, way):
    run, recipe = way
    step = METHODS[method](axis_name="data")
    result = run(lambda params, batch: step(*recipe(params, batch)), *problem())
    assert_same(result, numbers_of_one_device(method))


@some_by_default
@every_method
@pytest.mark.parametrize("spec", [P(), P("data")], ids=["shared", "sharded"])
def test_jit_needs_no_axis_name_where_arrays_are_sharded(method, spec):
    params, batch = problem()
    params = jax.device_put(params, NamedSharding(mesh(4, 2), spec))
    batch = jax.device_put(batch, NamedSharding(mesh(4, 2), P(BOTH_AXES)))
    result = on_the_whole(METHODS[method](), params, batch)
    assert_same(result, numbers_of_one_device(method))


# Not LookSAM: its state is made here from parameters that are not sharded.
@some_by_default
@pytest.mark.parametrize("method", [m for m in METHODS if "looksam" not in m])
def test_nor_where_their_types_say_how_they_are_sharded(method):
    def on_the_whole(params, batch):
        loss_fn = loss_of(batch, product=lambda w, x: x @ reshard(w, P()))
        return METHODS[method]()(gradient(loss_fn, params), params, loss_fn)

    params, batch = problem()
    whole = mesh(DEVICES, explicit=True)
    with jax.set_mesh(whole):
        params, batch = jax.device_put((params, batch), NamedSharding(whole, P("data")))
        result = jax.jit(on_the_whole)(params, batch)
    assert_same(result, numbers_of_one_device(method))


@some_by_default
@every_method
def test_the_numbers_are_not_those_of_a_device_alone(method):
    params, (x, y) = problem()
    alone = on_the_whole(METHODS[method](), params, (x[-2:], y[-2:]))
    assert_different(alone, numbers_of_one_device(method))


@pytest.mark.by_default(method=("focal_sam",))
@pytest.mark.parametrize("method", ["focal_sam", "sam", "imbsam", "cc_sam"])
def test_the_mean_of_the_gradients_may_come_after_the_transform(method):
    step = METHODS[method](axis_name="data")

    def per_device(params, batch):
        own = gradient(loss_of(batch), params)
        updates, info = step(own, params, loss_of(batch))
        return jax.lax.pmean(updates, "data"), info

    assert_same(by_pmap(per_device, *problem()), numbers_of_one_device(method))


@pytest.mark.by_default(method=("focal_sam",))
@pytest.mark.parametrize(
    "method",
    ["focal_sam", "shared focal_sam", "cc engine", "cc_sam on gpu"],
    indirect=True,
)
@pytest.mark.parametrize(
    ("split_along", "averaged_over"),
    [("data", ()), (BOTH_AXES, ()), (BOTH_AXES, "model"), (BOTH_AXES, BOTH_AXES)],
)
def test_a_mesh_may_have_two_axes(method, split_along, averaged_over):
    step = METHODS[method](axis_name=split_along)

    def per_device(params, batch):
        grads = gradient(loss_of(batch, averaged_over=split_along), params)
        return step(grads, params, loss_of(batch, averaged_over))

    result = by_shard_map(per_device, *problem(), devices=(4, 2), rows=split_along)
    assert_same(result, numbers_of_one_device(method))


@pytest.mark.by_default(method=("focal_sam",))
@pytest.mark.parametrize("method", SYNCHRONISED)
@pytest.mark.parametrize(("run", "recipe"), RUNS[3:6])
def test_without_synchronisation_each_device_climbs_by_itself(method, run, recipe):
    params, (x, y) = problem()
    shards = zip(np.split(x, DEVICES), np.split(y, DEVICES), strict=True)
    results = map(partial(on_the_whole, METHODS[method](), params), shards)
    wanted = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *results)
    step = METHODS[method](axis_name="data", sync_perturbation=False)
    result = run(lambda params, batch: step(*recipe(params, batch)), params, (x, y))
    assert_same(result, wanted)
    assert_different(wanted, numbers_of_one_device(method))


@some_by_default
@every_method
@pytest.mark.parametrize(("named", "missing"), [(None, "data"), ("data", "model")])
def test_an_axis_that_was_not_named_is_asked_for(method, named, missing):
    step = METHODS[method](axis_name=named)

    def per_device(params, batch):
        return step(params, params, loss_of(batch))

    with pytest.raises(ValueError, match=f"pass axis_name='{missing}'"):
        by_shard_map(per_device, *problem(), (4, 2), BOTH_AXES if named else "data")


@some_by_default
@every_method
def test_a_network_on_each_device_needs_no_axis_name(method):
    params, (x, y) = problem()
    step = METHODS[method]()

    def per_device(params, batch):
        params = jax.lax.pcast(params, "data", to="varying")
        return step(gradient(loss_of(batch), params), params, loss_of(batch))

    results = by_shard_map_stacked(per_device, params, (x, y))
    for device in (0, DEVICES - 1):
        rows = slice(2 * device, 2 * device + 2)
        wanted = on_the_whole(step, params, (x[rows], y[rows]))
        assert_same(jax.tree.map(lambda a, i=device: a[i], results), wanted)


@pytest.mark.parametrize(
    "make",
    [
        partial(fsam.sam, rho=0.1),
        partial(fsam.focal_sam, COUNTS, rho=0.1),
        partial(fsam.cc_sam, COUNTS, rho=0.1),
        partial(fsam.reuse_ascent, 1.0, rho=0.1),
        lambda: fsam.looksam(fsam.sam(rho=0.1), every=2),
    ],
    ids=["sam", "focal_sam", "cc_sam", "reuse_ascent", "looksam"],
)
def test_a_network_on_each_device_trains_in_a_loop(make):
    """As in federated training: between two averages the devices' networks differ."""
    params, (x, y) = problem()
    tx = optax.chain(make(), optax.sgd(0.1))

    def train(params, batch):
        def step(carry, _):
            params, state = carry
            here = fsam.evaluate(loss_of(batch), params)
            updates, state = tx.update(here.grads, state, params, evaluation=here)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, tx.init(params)), None, length=3)[0][0]

    def per_device(params, batch):
        return train(jax.lax.pcast(params, "data", to="varying"), batch)

    results = by_shard_map_stacked(per_device, params, (x, y))
    for device in (0, DEVICES - 1):
        rows = slice(2 * device, 2 * device + 2)
        wanted = train(params, (x[rows], y[rows]))
        assert_same(jax.tree.map(lambda a, i=device: a[i], results), wanted)


@pytest.mark.parametrize("named", ["data", ("data",), ["data"]])
def test_an_axis_may_be_named_alone_or_in_a_sequence(named):
    tx = fsam.sam(rho=0.1, axis_name=named)

    def per_device(params, batch):
        here = fsam.evaluate(loss_of(batch), params, axis_name="data")
        state = tx.init(params)
        return tx.update(here.grads, state, params, evaluation=here)[0]

    result = by_shard_map(per_device, *problem())
    params, batch = problem()
    here = fsam.evaluate(loss_of(batch), params)
    alone = fsam.sam(rho=0.1)
    wanted, _ = alone.update(here.grads, alone.init(params), params, evaluation=here)
    assert_same(result, wanted)
