"""Tests of Optax's contract: finite values, dtypes, one compilation, donation."""

import gc
import weakref
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref
from oracle_jax import DTYPES, each_in_a_dtype, gradient, update
from oracle_jax import per_class_loss as network

import focal_sam_jax as fsam

TRANSFORMS = {
    "sam": partial(fsam.sam),
    "asam": partial(fsam.sam, adaptive=True),
    "imbsam": partial(fsam.imbsam, ref.COUNTS, tail_threshold=25),
    "focal_sam": partial(fsam.focal_sam, ref.COUNTS, gamma=2.0, lam=0.8),
    "cc_sam": partial(fsam.cc_sam, ref.COUNTS, alpha=0.7),
}
FOCAL_WEIGHTS = tuple((1 - n / 100) ** 2 for n in ref.COUNTS)
# The approximations must keep the same contract.
ALL = TRANSFORMS | {
    "reuse_ascent": partial(fsam.reuse_ascent, FOCAL_WEIGHTS, lam=0.8),
    "reuse_ascent as sam": fsam.reuse_ascent,
    "looksam": lambda rho: fsam.looksam(TRANSFORMS["focal_sam"](rho=rho), every=2),
}
APPROXIMATIONS = ALL.keys() - TRANSFORMS.keys()
ALL |= {
    "sharpness_aware": partial(fsam.sharpness_aware, FOCAL_WEIGHTS),
    "scheduled weights": partial(
        fsam.sharpness_aware,
        lambda n: jnp.where(n < 2, 1.0, 0.0) * jnp.array(FOCAL_WEIGHTS),
    ),
    "sse_sam": lambda rho: fsam.sse_sam(
        ref.COUNTS, head_rho=rho, tail_rho=rho, tail_threshold=25, switch_step=1
    ),
    "class_conditional": lambda rho: fsam.class_conditional(
        (lambda n: rho(n) * jnp.ones(3)) if callable(rho) else [rho] * 3,
        groups=[0, 1, 1, 2],
    ),
}
# The same without perturbation: all class weights, or all radii, are zero.
NOTHING_TO_CLIMB = {
    "sam": partial(fsam.sam, rho=0.0),
    "imbsam": partial(fsam.imbsam, ref.COUNTS, tail_threshold=0),
    "focal_sam": partial(fsam.focal_sam, ref.COUNTS, gamma=1e9),
    "cc_sam": partial(fsam.cc_sam, ref.COUNTS, rho=0.0),
}
# By default one of each kind: class weights, balls, groups, reused gradients.
KINDS = (
    "focal_sam",
    "scheduled weights",
    "cc_sam",
    "sse_sam",
    "reuse_ascent",
    "looksam",
)
pytestmark = pytest.mark.by_default(name=(*KINDS, "sam"))
every_transform = pytest.mark.parametrize("name", TRANSFORMS)
every_one = pytest.mark.parametrize("name", ALL)
in_every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.__name__)


def parameters(dtype=jnp.float32):
    return jax.tree.map(lambda p: jnp.asarray(p, dtype), ref.parameters())


def slopes(size):
    """Makes losses of four classes with gradients of 1, 2, 3, 4 tenths of ``size``."""

    def f(params):
        total = sum(p.astype(jnp.float32).sum() for p in jax.tree.leaves(params))
        return size / 10 * total * jnp.arange(1.0, 5.0)

    return f


def described(tree):
    """Structure, shapes, dtypes and weak types."""
    leaves, structure = jax.tree.flatten(tree)
    return structure, [(jnp.shape(x), x.dtype, x.weak_type) for x in leaves]


# --- no perturbation ------------------------------------------------------------------


@each_in_a_dtype(ALL)
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


@each_in_a_dtype(NOTHING_TO_CLIMB)
def test_nothing_to_climb_gives_the_plain_gradient(name, dtype):
    tx = NOTHING_TO_CLIMB[name]()
    both = jax.jit(lambda p: (update(tx, p), gradient(network, p)))
    (updates, _), plain = both(parameters(dtype))
    jax.tree.map(np.testing.assert_array_equal, updates, plain)


@in_every_dtype
def test_a_batch_without_tail_examples_gives_the_plain_gradient(dtype):
    def heads_only(params):
        return network(params, y=np.zeros_like(ref.Y))

    params = parameters(dtype)
    updates, _ = update(TRANSFORMS["imbsam"](rho=0.1), params, heads_only)
    plain = gradient(heads_only, params)
    jax.tree.map(np.testing.assert_array_equal, updates, plain)


@each_in_a_dtype(TRANSFORMS)
def test_a_batch_of_one_class_gives_finite_updates(name, dtype):
    def tail_only(params):
        return network(params, y=np.full_like(ref.Y, 3))

    updates, state = update(TRANSFORMS[name](rho=0.1), parameters(dtype), tail_only)
    for leaf in jax.tree.leaves((updates, state.info)):
        assert np.all(np.isfinite(np.asarray(leaf, np.float32)))
    assert state.info.ascent_norm > 0


# --- norms and dtypes -----------------------------------------------------------------


@each_in_a_dtype(TRANSFORMS)
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


@each_in_a_dtype(TRANSFORMS)
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


@each_in_a_dtype(sorted(APPROXIMATIONS), "reuse_ascent")
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


@pytest.mark.by_default(x64=(False,))
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
    "name",
    [n for n in ALL if n not in ("cc_sam", "sse_sam", "class_conditional", "looksam")],
)  # these always compile without jit
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


@pytest.mark.by_default(name=("focal_sam", "cc_sam", "looksam"))
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


@pytest.mark.slow
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


@pytest.mark.by_default(name=("focal_sam", "cc_sam", "looksam"))
@every_one
def test_jit_changes_nothing(name):
    tx, params = ALL[name](rho=0.1), parameters()
    compiled, _ = jax.jit(partial(update, tx))(params)
    eager, _ = update(tx, params)
    assert ref.error(compiled, eager) < 1e-5


# --- closures, promotion, derivatives -------------------------------------------------


@pytest.mark.by_default(name=("sam", "focal_sam", "cc_sam"), form=("evaluation",))
@every_one
@pytest.mark.parametrize("form", ["evaluation", "function", "engine"])
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_nothing_keeps_what_a_loss_function_closes_over(name, form, compiled):
    if compiled is False and name in ("cc_sam", "sse_sam", "class_conditional"):
        pytest.skip("compiles a copy of the network in every step")
    if form == "engine" and name not in ("sam", "cc_sam"):
        pytest.skip("there is one for class weights and one for balls")

    def run(weight):
        def f(params):
            return jnp.asarray(weight) * network(params)

        def step(params):
            tx = ALL[name](rho=0.1)
            if form == "engine":
                engine = fsam.sharpness_aware_value_and_grad
                if name == "cc_sam":
                    engine = fsam.class_conditional_value_and_grad
                    return engine(f, np.full(4, 0.1))(params)
                return engine(f, 1.0, rho=0.1)(params)
            here = fsam.evaluate(f, params)
            loss = {"evaluation": here} if form == "evaluation" else {}
            loss = loss or {"per_class_loss_fn": f}
            return tx.update(here.grads, tx.init(params), params, **loss)

        jax.block_until_ready((jax.jit(step) if compiled else step)(parameters()))

    weight = np.ones(ref.CLASSES, np.float32)
    held = weakref.ref(weight)
    gc.freeze()  # Excludes existing objects from the collection.
    run(weight)
    del weight
    gc.collect()
    gc.unfreeze()
    assert held() is None


@each_in_a_dtype(ALL)
def test_strict_promotion_of_dtypes(name, dtype):
    tx, params = ALL[name](rho=0.1), parameters(dtype)

    def step(p):
        return _evaluated(tx, fsam.evaluate(network, p), p)

    want = jax.eval_shape(step, params)
    with jax.numpy_dtype_promotion("strict"):
        assert described(jax.eval_shape(step, params)) == described(want)


def _evaluated(tx, here, params):
    return tx.update(here.grads, tx.init(params), params, evaluation=here)


NOTHING = {
    "sam": lambda: fsam.sam(rho=0.0),
    "a weight of zero": lambda: fsam.sharpness_aware(0.0),
    "weights of zero": lambda: fsam.sharpness_aware([0.0] * 4, rho=0.1),
    "imbsam without a tail": lambda: fsam.imbsam(ref.COUNTS, tail_threshold=0),
    "cc_sam": lambda: fsam.cc_sam(ref.COUNTS, rho=0.0),
    "sse_sam": lambda: fsam.sse_sam(
        ref.COUNTS, head_rho=0, tail_rho=0, tail_threshold=25, switch_step=1
    ),
    "reuse_ascent, first step": lambda: fsam.reuse_ascent(FOCAL_WEIGHTS, rho=0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("make", NOTHING.values(), ids=NOTHING)
def test_a_derivative_of_an_update_is_the_plain_one_where_nothing_climbs(make):
    tx, params = make(), parameters()

    def squares(step):
        return jax.jit(
            jax.grad(lambda p: sum(jnp.sum(g**2) for g in jax.tree.leaves(step(p))))
        )(params)

    got = squares(lambda p: _evaluated(tx, fsam.evaluate(network, p), p)[0])
    want = squares(lambda p: gradient(network, p))
    assert ref.error(got, want) < 1e-5


def test_a_derivative_of_an_engine_without_a_tail_example():
    x, y = jnp.eye(4), jnp.zeros(4, int)

    def losses(p):
        return fsam.per_class_losses(fsam.losses.cross_entropy(x @ p, y), y, 3)

    weights = fsam.tail_weights([60, 20, 4], 20)
    fn = fsam.sharpness_aware_value_and_grad(losses, weights, rho=0.1)
    got = jax.grad(lambda p: jnp.sum(fn(p)[1] ** 2))(jnp.ones((4, 3)))
    np.testing.assert_allclose(got[0], [-0.0278, 0.0139, 0.0139], atol=1e-4)


@pytest.mark.slow
@every_transform
def test_a_derivative_of_an_update_is_finite_where_something_climbs(name):
    tx, params = TRANSFORMS[name](rho=0.1), parameters()

    @jax.jit
    @jax.grad
    def derivative(p):
        updates, state = _evaluated(tx, fsam.evaluate(network, p), p)
        return optax.tree.norm(updates) + state.info.sharpness

    assert np.all(np.isfinite(ref.flat(derivative(params))))
