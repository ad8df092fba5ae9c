"""Inside Optax's wrappers and Flax's optimizer: it works, or it explains itself."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref
from tracing import counted

import focal_sam_jax as fsam

TRANSFORMS = {
    "sam": fsam.sam,
    "imbsam": partial(fsam.imbsam, ref.COUNTS, tail_threshold=25),
    "focal_sam": partial(fsam.focal_sam, ref.COUNTS, gamma=2.0, lam=0.8),
    "cc_sam": partial(fsam.cc_sam, ref.COUNTS, alpha=0.7),
}
every_transform = pytest.mark.parametrize("name", TRANSFORMS)
PARAMS = jax.tree.map(jnp.float32, ref.parameters())


def loss_on(rows):
    x, y = ref.X[rows], ref.Y[rows]

    def per_class_loss(params):
        losses = ref.example_losses(params, x, y, xp=jnp)
        return fsam.per_class_losses(losses, y, ref.CLASSES)

    return per_class_loss


ALL, FIRST, SECOND = loss_on(slice(None)), loss_on(slice(5)), loss_on(slice(5, None))


def gradient(f=ALL, params=PARAMS):
    return jax.grad(lambda p: f(p).sum())(params)


def update(tx, state=None, f=ALL, params=PARAMS, grads=None):
    state = tx.init(params) if state is None else state
    grads = gradient(f, params) if grads is None else grads
    return tx.update(grads, state, params, per_class_loss_fn=f)


def corrected(tx, f=ALL, params=PARAMS):
    """The gradient of the method, alone."""
    return update(tx, f=f, params=params)[0]


def assert_same(got, want, rtol=1e-6):
    assert ref.error(got, want) <= rtol


def scaled(tree, factor):
    return jax.tree.map(lambda leaf: factor * leaf, tree)


# --- chains ---------------------------------------------------------------------------


@every_transform
def test_in_a_chain_the_optimizer_sees_the_corrected_gradient(name):
    tx = TRANSFORMS[name](rho=0.2)
    updates, _ = update(optax.chain(tx, optax.sgd(0.5)))
    assert_same(updates, scaled(corrected(tx), -0.5))


@every_transform
def test_a_named_chain_is_a_chain(name):
    tx = TRANSFORMS[name](rho=0.2)
    named = optax.named_chain(("method", tx), ("optimizer", optax.sgd(0.5)))
    updates, state = update(named)
    assert_same(updates, scaled(corrected(tx), -0.5))
    assert state["method"].count == 1


@every_transform
def test_clipping_before_clips_the_plain_gradient(name):
    tx = TRANSFORMS[name](rho=0.2)
    updates, _ = update(optax.chain(optax.clip_by_global_norm(0.01), tx))
    plain = gradient()
    clipped = scaled(plain, 0.01 / optax.tree.norm(plain))
    correction = ref.add(corrected(tx), plain, -1.0)
    assert_same(updates, ref.add(clipped, correction), 1e-5)


@every_transform
def test_clipping_after_clips_the_whole(name):
    tx = TRANSFORMS[name](rho=0.2)
    updates, _ = update(optax.chain(tx, optax.clip_by_global_norm(0.01)))
    whole = corrected(tx)
    assert_same(updates, scaled(whole, 0.01 / optax.tree.norm(whole)))


@every_transform
@pytest.mark.parametrize("first", [True, False])
def test_weight_decay_takes_no_part_in_the_ascent(name, first):
    tx, decay = TRANSFORMS[name](rho=0.2), optax.add_decayed_weights(0.1)
    updates, state = update(optax.chain(*((decay, tx) if first else (tx, decay))))
    assert_same(updates, ref.add(corrected(tx), PARAMS, 0.1))
    _, alone = update(tx)
    assert optax.tree.get(state, "ascent_norm") == alone.info.ascent_norm


# --- injected hyperparameters ---------------------------------------------------------

NUMBERS = {
    "sam": {"rho": 0.3},
    "imbsam": {"rho": 0.3, "tail_threshold": 11},
    "focal_sam": {"rho": 0.3, "gamma": 0.5, "lam": 0.9},
    "cc_sam": {"rho": 0.3, "alpha": 0.4},
}
BUILDERS = {n: getattr(t, "func", t) for n, t in TRANSFORMS.items()}


def counts_for(name, as_type):
    return {} if name == "sam" else {"class_counts": as_type(ref.COUNTS)}


@every_transform
@pytest.mark.parametrize("as_type", [list, np.array], ids=["list", "array"])
def test_injected_numbers_can_be_changed_and_compile_nothing(name, as_type):
    counts = counts_for(name, as_type)
    tx = optax.inject_hyperparams(BUILDERS[name])(**counts, rho=0.1)
    traced = counted(partial(update, tx))
    step, state = jax.jit(traced), tx.init(PARAMS)
    assert_same(step(state)[0], corrected(BUILDERS[name](**counts, rho=0.1)), 1e-5)
    for number, value in NUMBERS[name].items():
        state.hyperparams[number] = jnp.full_like(state.hyperparams[number], value)
    want = corrected(BUILDERS[name](**counts, **NUMBERS[name]))
    assert_same(step(state)[0], want, 1e-5)
    assert traced.traces == 1


@every_transform
def test_an_injected_schedule_drives_rho(name):
    counts = counts_for(name, list)
    schedule = optax.linear_schedule(0.0, 0.4, 2)
    tx = optax.inject_hyperparams(BUILDERS[name])(**counts, rho=schedule)
    step, state = jax.jit(partial(update, tx)), tx.init(PARAMS)
    for rho in (0.0, 0.2, 0.4):
        updates, state = step(state)
        assert_same(updates, corrected(BUILDERS[name](**counts, rho=rho)), 1e-5)


# --- wrappers that skip or accumulate -------------------------------------------------


@every_transform
def test_apply_if_finite_after_the_method_catches_the_second_gradient(name):
    def barrier(params):  # finite here, NaN a little uphill
        inside = params * jnp.where(params < 1.01, 1.0, jnp.nan)
        return jnp.stack([jnp.sum(inside), *jnp.zeros(3)])[jnp.array([3, 2, 1, 0])]

    params, tx = jnp.ones(2), TRANSFORMS[name](rho=0.2)
    whole = optax.chain(tx, optax.apply_if_finite(optax.sgd(0.5), 3))
    updates, state = update(whole, f=barrier, params=params)
    assert np.all(np.isfinite(gradient(barrier, params)))
    assert not np.any(np.isfinite(corrected(tx, barrier, params)))
    np.testing.assert_array_equal(updates, np.zeros(2))
    assert state[1].total_notfinite == 1


@every_transform
@pytest.mark.parametrize("wrapped", [False, True], ids=["object", "transformation"])
def test_multi_steps_after_the_method_averages_corrected_gradients(name, wrapped):
    tx = TRANSFORMS[name](rho=0.2)
    multi = optax.MultiSteps(optax.sgd(0.5), every_k_schedule=2)
    whole = optax.chain(tx, multi.gradient_transformation() if wrapped else multi)
    state = whole.init(PARAMS)
    nothing, state = update(whole, state, FIRST)
    assert optax.tree.norm(nothing) == 0
    updates, state = update(whole, state, SECOND)
    both = ref.add(corrected(tx, FIRST), corrected(tx, SECOND))
    assert_same(updates, scaled(both, -0.5 / 2), 1e-5)


@every_transform
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_multi_steps_around_the_method_is_explained(name, compiled):
    tx = optax.chain(TRANSFORMS[name](), optax.sgd(0.5))
    multi = optax.MultiSteps(tx, every_k_schedule=2)
    call = partial(update, multi)
    message = rf"optax.chain\({name}\(\.\.\.\), optax.MultiSteps\(optimizer"
    with pytest.raises(ValueError, match=message):
        (jax.jit(call) if compiled else call)()


@every_transform
def test_multi_steps_in_a_chain_around_the_method_is_explained(name):
    multi = optax.MultiSteps(TRANSFORMS[name](), every_k_schedule=2)
    with pytest.raises(ValueError, match="optax.MultiSteps"):
        update(optax.chain(optax.clip(1.0), multi))


@every_transform
@pytest.mark.parametrize("wrapper", ["masked", "partition"])
def test_a_masked_tree_is_refused_with_the_name_of_the_argument(name, wrapper):
    tx, mask = TRANSFORMS[name](), {"body": False, "head": True}
    if wrapper == "masked":
        whole = optax.masked(tx, mask)
    else:
        whole = optax.partition({True: tx, False: optax.sgd(0.1)}, mask)
    with pytest.raises(ValueError, match=rf"masked .*: {name}\(\.\.\., mask=\.\.\.\)"):
        update(whole)


@every_transform
def test_in_front_of_partition_it_works(name):
    tx = TRANSFORMS[name](rho=0.2)
    groups = {"slow": optax.sgd(0.1), "fast": optax.sgd(1.0)}
    whole = optax.chain(tx, optax.partition(groups, {"body": "slow", "head": "fast"}))
    updates, _ = update(whole)
    assert_same(updates["body"], scaled(corrected(tx)["body"], -0.1))
    assert_same(updates["head"], scaled(corrected(tx)["head"], -1.0))


# --- wrappers that keep parameters of their own ---------------------------------------


@every_transform
def test_schedule_free_hands_the_loss_function_on(name):
    tx = TRANSFORMS[name](rho=0.2)
    whole = optax.contrib.schedule_free(optax.chain(tx, optax.sgd(0.5)), 0.5)
    plain = optax.contrib.schedule_free(optax.sgd(0.5), 0.5)
    state, same, params = whole.init(PARAMS), plain.init(PARAMS), PARAMS
    for _ in range(2):
        updates, state = update(whole, state, params=params)
        want, same = plain.update(corrected(tx, params=params), same, params)
        assert_same(updates, want, 1e-5)
        params = optax.apply_updates(params, updates)
    assert optax.tree.get(state, "sharpness") > 0


@every_transform
def test_lookahead_drops_the_loss_function_and_is_told_what_to_use(name):
    whole = optax.lookahead(TRANSFORMS[name](), sync_period=2, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced(PARAMS)
    state = whole.init(params)
    advice = "optax.lookahead does.*sharpness_aware_value_and_grad"
    with pytest.raises(ValueError, match=advice):
        whole.update(gradient(), state, params)


def test_the_gradient_function_works_with_lookahead():
    fn = fsam.sharpness_aware_value_and_grad(ALL, 1.0, rho=0.2)
    tx = optax.lookahead(optax.sgd(0.5), sync_period=2, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced(PARAMS)
    state = tx.init(params)
    want = PARAMS
    for _ in range(2):
        _, grads = fn(params.fast)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        step = corrected(TRANSFORMS["sam"](rho=0.2), params=want)
        want = ref.add(want, step, -0.5)
    halfway = scaled(ref.add(PARAMS, want), 0.5)
    assert_same(params.slow, halfway)
    assert_same(params.fast, halfway)


@every_transform
def test_an_nnx_optimizer_hands_the_loss_function_on(name):
    nnx = pytest.importorskip("flax.nnx")
    tx = TRANSFORMS[name](rho=0.2)

    def per_class_loss(model):
        logits = model(jnp.asarray(ref.X, jnp.float32))
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, ref.Y)
        return fsam.per_class_losses(losses, ref.Y, ref.CLASSES)

    model = nnx.Linear(ref.X.shape[1], ref.CLASSES, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.chain(tx, optax.sgd(0.5)), wrt=nnx.Param)
    graph, before = nnx.split(model, nnx.Param)

    def f(params):
        return per_class_loss(nnx.merge(graph, params))

    before = jax.tree.map(jnp.copy, before)  # the model changes its arrays in place
    want = corrected(tx, f, before)
    grads = nnx.grad(lambda model: per_class_loss(model).sum())(model)
    optimizer.update(model, grads, per_class_loss_fn=f)
    after = nnx.state(model, nnx.Param)
    for new, old, g in zip(*map(jax.tree.leaves, (after, before, want)), strict=True):
        np.testing.assert_allclose(new, old - 0.5 * g, rtol=1e-5)
