"""What every transform promises to Optax: finite, typed, compiled once, donated."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref

import focal_sam_jax as fsam

TRANSFORMS = {
    "sam": partial(fsam.sam),
    "asam": partial(fsam.sam, adaptive=True),
    "imbsam": partial(fsam.imbsam, ref.COUNTS, tail_threshold=25),
    "focal_sam": partial(fsam.focal_sam, ref.COUNTS, gamma=2.0, lam=0.8),
    "cc_sam": partial(fsam.cc_sam, ref.COUNTS, alpha=0.7),
}
FOCAL_WEIGHTS = tuple((1 - n / 100) ** 2 for n in ref.COUNTS)
# What costs less and gives other numbers promises the same to Optax.
ALL = TRANSFORMS | {
    "reuse_ascent": partial(fsam.reuse_ascent, FOCAL_WEIGHTS, lam=0.8),
    "reuse_ascent as sam": fsam.reuse_ascent,
    "looksam": lambda rho: fsam.looksam(TRANSFORMS["focal_sam"](rho=rho), every=2),
}
# The same without a class to climb for: class weights, or radii, that are all zero.
NOTHING_TO_CLIMB = {
    "sam": partial(fsam.sam, rho=0.0),
    "imbsam": partial(fsam.imbsam, ref.COUNTS, tail_threshold=0),
    "focal_sam": partial(fsam.focal_sam, ref.COUNTS, gamma=1e9),
    "cc_sam": partial(fsam.cc_sam, ref.COUNTS, rho=0.0),
}
every_transform = pytest.mark.parametrize("name", TRANSFORMS)
every_one = pytest.mark.parametrize("name", ALL)
in_every_dtype = pytest.mark.parametrize(
    "dtype", [jnp.bfloat16, jnp.float16, jnp.float32], ids=lambda d: d.__name__
)


def parameters(dtype=jnp.float32):
    return jax.tree.map(lambda p: jnp.asarray(p, dtype), ref.parameters())


def network(params, labels=ref.Y):
    losses = ref.example_losses(params, ref.X, labels, xp=jnp)
    return fsam.per_class_losses(losses, labels, ref.CLASSES)


def gradient(f, params):
    return jax.grad(lambda p: f(p).sum())(params)


def update(tx, params, f=network, **extra):
    grads = gradient(f, params)
    return tx.update(grads, tx.init(params), params, per_class_loss_fn=f, **extra)


def slopes(size):
    """A loss with the gradient ``size``, times 1, 2, 3, 4 for the four classes."""

    def f(params):
        total = sum(p.astype(jnp.float32).sum() for p in jax.tree.leaves(params))
        return size / 10 * total * jnp.arange(1.0, 5.0)

    return f


def described(tree):
    """Structure, shapes, dtypes and weak types."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(jnp.shape(x), x.dtype, x.weak_type) for x in leaves]


# --- nothing to climb -----------------------------------------------------------------


@every_one
@in_every_dtype
def test_a_zero_gradient_gives_finite_updates(name, dtype):
    updates, state = update(ALL[name](rho=0.1), parameters(dtype), slopes(0.0))
    for leaf in jax.tree.leaves(updates):
        np.testing.assert_array_equal(leaf, jnp.zeros_like(leaf))
    assert optax.tree.get(state, "info") == (0, 0)


@every_one
def test_parameters_that_are_all_zero_give_finite_updates(name):
    params = jax.tree.map(jnp.zeros_like, parameters())
    updates, _ = update(ALL[name](rho=0.1), params)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(updates))


@pytest.mark.parametrize("name", NOTHING_TO_CLIMB)
@in_every_dtype
def test_nothing_to_climb_gives_the_plain_gradient(name, dtype):
    tx = NOTHING_TO_CLIMB[name]()
    both = jax.jit(lambda p: (update(tx, p), gradient(network, p)))
    (updates, _), plain = both(parameters(dtype))
    jax.tree.map(np.testing.assert_array_equal, updates, plain)


@in_every_dtype
def test_a_batch_without_tail_examples_gives_the_plain_gradient(dtype):
    def heads_only(params):
        return network(params, np.zeros_like(ref.Y))

    params = parameters(dtype)
    updates, _ = update(TRANSFORMS["imbsam"](rho=0.1), params, heads_only)
    plain = gradient(heads_only, params)
    jax.tree.map(np.testing.assert_array_equal, updates, plain)


@every_transform
@in_every_dtype
def test_a_batch_of_one_class_gives_finite_updates(name, dtype):
    def tail_only(params):
        return network(params, np.full_like(ref.Y, 3))

    updates, state = update(TRANSFORMS[name](rho=0.1), parameters(dtype), tail_only)
    for leaf in jax.tree.leaves((updates, state.info)):
        assert np.all(np.isfinite(np.asarray(leaf, np.float32)))
    assert state.info.ascent_norm > 0


# --- norms and dtypes -----------------------------------------------------------------


@every_transform
@in_every_dtype
@pytest.mark.parametrize("size", [1e-4, 1.0, 2e3])
def test_the_norm_is_float32_though_squares_leave_the_range(name, dtype, size):
    # 1e-4 squared is zero in float16, 2e3 squared is infinite.
    params = {"a": jnp.ones((8, 8), dtype)}
    _, state = update(TRANSFORMS[name](rho=0.1), params, slopes(size))
    weights = {
        "imbsam": tail_of(ref.COUNTS),
        "focal_sam": np.array([(1 - n / 100) ** 2 for n in ref.COUNTS]),
    }.get(name, np.ones(4))
    by_class = size / 10 * np.arange(1, 5) * weights
    want = 8 * (np.linalg.norm(by_class) if name == "cc_sam" else by_class.sum())
    np.testing.assert_allclose(state.info.ascent_norm, want, rtol=5e-3)


def tail_of(counts):
    return np.array([1.0 if n < 25 else 0.0 for n in counts])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@every_transform
def test_low_precision_climbs_as_far_as_float32_does(name, dtype):
    # Many equal entries: a sum of squares in float16 stops growing at 2048.
    params = {"a": jnp.ones((128, 128), dtype)}
    tx, f = TRANSFORMS[name](rho=20.0), slopes(1.0)
    _, low = update(tx, params, f)
    _, full = update(tx, jax.tree.map(lambda p: p.astype(jnp.float32), params), f)
    for got, want in zip(low.info, full.info, strict=True):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, want, rtol=2e-2)


@every_one
@pytest.mark.parametrize("incoming", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("own", [jnp.bfloat16, jnp.float32])
def test_updates_leave_in_the_dtype_they_came_in(name, incoming, own):
    tx, params = ALL[name](rho=0.1), parameters(own)
    grads = parameters(incoming)
    updates, _ = jax.eval_shape(
        lambda p, g: tx.update(g, tx.init(p), p, per_class_loss_fn=network),
        params,
        grads,
    )
    assert described(updates) == described(jax.eval_shape(lambda g: g, grads))


@every_one
def test_mixed_dtypes_stay_as_they_are(name):
    params = parameters()
    params["head"] = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params["head"])
    tx = ALL[name](rho=0.1)
    updates, _ = jax.eval_shape(partial(update, tx), params)
    assert described(updates) == described(params)


# --- state and compilation ------------------------------------------------------------


@every_one
@pytest.mark.parametrize("x64", [False, True], ids=["x32", "x64"])
@pytest.mark.parametrize("rho", [0.1, optax.constant_schedule(0.1)])
def test_the_state_never_changes_its_form(name, x64, rho):
    with jax.enable_x64(x64):
        tx, params = ALL[name](rho=rho), parameters(float)
        before = tx.init(params)
        _, after = jax.eval_shape(partial(update, tx), params)
        assert described(after) == described(before)


@every_transform
def test_the_state_is_three_numbers(name):
    state = TRANSFORMS[name]().init(parameters())
    assert isinstance(state, fsam.SharpnessAwareState)
    _, forms = described(state)
    assert forms == [((), dtype, False) for dtype in ("int32", "float32", "float32")]


@pytest.mark.parametrize("name", [n for n in ALL if n not in TRANSFORMS])
@in_every_dtype
def test_the_state_of_an_approximation_holds_one_tree_more(name, dtype):
    params = parameters(dtype)
    state = jax.eval_shape(ALL[name](rho=0.1).init, params)
    numbers = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == ()]
    arrays = [leaf for leaf in jax.tree.leaves(state) if leaf.shape]
    assert len(numbers) <= 4
    assert described(arrays)[1] == described(params)[1]


@every_one
def test_init_works_on_shapes_alone(name):
    tx, params = ALL[name](rho=0.1), parameters()
    shapes = jax.eval_shape(tx.init, jax.eval_shape(lambda p: p, params))
    assert described(shapes) == described(tx.init(params))


@every_one
@pytest.mark.parametrize("x64", [False, True], ids=["x32", "x64"])
def test_the_second_step_compiles_nothing(name, x64):
    traces = []
    tx = optax.chain(ALL[name](rho=0.1), optax.sgd(0.1, momentum=0.9))

    @jax.jit
    def step(params, state):
        traces.append(params)
        updates, state = tx.update(
            gradient(network, params), state, params, per_class_loss_fn=network
        )
        return optax.apply_updates(params, updates), state

    with jax.enable_x64(x64):
        params = parameters(float)
        state = tx.init(params)
        for _ in range(3):
            params, state = step(params, state)
    assert len(traces) == 1
    # LookSAM counts exact steps.
    assert optax.tree.get(state, "count") == (2 if name == "looksam" else 3)


@pytest.mark.parametrize(
    "name", [n for n in ALL if n not in ("cc_sam", "looksam")]
)  # which wants jit
def test_the_second_update_without_jit_compiles_nothing(name, caplog):
    tx, params = ALL[name](rho=0.1), parameters()
    grads = gradient(network, params)
    call = partial(tx.update, params=params, per_class_loss_fn=network)
    _, state = call(grads, tx.init(params))
    with jax.log_compiles():
        jax.jit(lambda x: x + 1)(1.0)
        assert "Compiling" in caplog.text  # the log is on
        caplog.clear()
        call(grads, state)
    assert "Compiling" not in caplog.text


@every_one
def test_parameters_and_state_can_be_donated(name):
    tx = optax.chain(ALL[name](rho=0.1), optax.adam(1e-3))

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        updates, state = tx.update(
            gradient(network, params), state, params, per_class_loss_fn=network
        )
        return optax.apply_updates(params, updates), state

    start = parameters()
    params, state = step(start, tx.init(start))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(start))
    params, state = step(params, state)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(params))


@every_one
def test_unknown_extra_arguments_are_accepted_and_change_nothing(name):
    tx, params = ALL[name](rho=0.1), parameters()
    want = update(tx, params)
    got = update(tx, params, value=jnp.ones(()), key=jax.random.key(0), anything=None)
    jax.tree.map(np.testing.assert_array_equal, got, want)


@every_one
def test_vmap_over_models_is_a_loop_over_models(name):
    tx = ALL[name](rho=0.1)
    models = [jax.tree.map(jnp.float32, ref.parameters(seed)) for seed in range(2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)
    together = jax.jit(jax.vmap(partial(update, tx)))(stacked)
    for i, model in enumerate(models):
        got = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        want = update(tx, model)
        assert ref.error(got[0], want[0]) < 1e-5
        info, wanted = (optax.tree.get(state, "info") for _, state in (got, want))
        np.testing.assert_allclose(info, wanted, rtol=1e-4)


@every_one
def test_jit_changes_nothing(name):
    tx, params = ALL[name](rho=0.1), parameters()
    compiled, _ = jax.jit(partial(update, tx))(params)
    eager, _ = update(tx, params)
    assert ref.error(compiled, eager) < 1e-5
