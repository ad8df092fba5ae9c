"""Tests in Optax's wrappers and Flax's optimizer: it works, or raises a clear error.

A test names the rows of ``docs/compositions.md`` that it checks.
"""

import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref
from oracle_jax import PARAMS, per_class_loss, plain
from packaging.version import Version
from tracing import counted

import focal_sam_jax as fsam

TRANSFORMS = {
    "sam": fsam.sam,
    "imbsam": partial(fsam.imbsam, ref.COUNTS, tail_threshold=25),
    "focal_sam": partial(fsam.focal_sam, ref.COUNTS, gamma=2.0, lam=0.8),
    "cc_sam": partial(fsam.cc_sam, ref.COUNTS, alpha=0.7),
    "sse_sam": lambda rho=0.05, **options: fsam.sse_sam(
        ref.COUNTS,
        head_rho=rho,
        tail_rho=rho,
        tail_threshold=25,
        switch_step=9,
        **options,
    ),
    "sharpness_aware": partial(fsam.sharpness_aware, (0.2, 0.4, 0.7, 1.0)),
    "class_conditional": lambda rho=0.05, **options: fsam.class_conditional(
        [rho, 2 * rho], groups=[0, 0, 1, 1], **options
    ),
}
pytestmark = pytest.mark.by_default(name=("sam", "focal_sam", "cc_sam", "sse_sam"))
every_transform = pytest.mark.parametrize("name", TRANSFORMS)

PAGE = Path(__file__).parents[1] / "docs" / "compositions.md"
CHECKED = []


def row(composition):
    """Registers a tested row by its first cell."""
    CHECKED.append(composition)
    return lambda test: test


def test_every_row_of_the_page_has_a_test():
    cells = re.findall(r"^\| (.*?) \|", PAGE.read_text(), re.M)
    rows = [cell for cell in cells if cell != "composition"]
    assert len(rows) > 20
    assert sorted(rows) == sorted(CHECKED)


def loss_on(rows):
    return partial(per_class_loss, x=ref.X[rows], y=ref.Y[rows])


ALL, FIRST, SECOND = loss_on(slice(None)), loss_on(slice(5)), loss_on(slice(5, None))


def gradient(f=ALL, params=PARAMS):
    return plain(params, f)[1]


def update(tx, state=None, f=ALL, params=PARAMS, grads=None):
    state = tx.init(params) if state is None else state
    grads = gradient(f, params) if grads is None else grads
    return tx.update(grads, state, params, per_class_loss_fn=f)


def corrected(tx, f=ALL, params=PARAMS):
    """Returns only the gradient of ``update``."""
    return update(tx, f=f, params=params)[0]


def assert_same(got, want, rtol=1e-6):
    assert ref.error(got, want) <= rtol


def scaled(tree, factor):
    return jax.tree.map(lambda leaf: factor * leaf, tree)


# --- chains ---------------------------------------------------------------------------


@row("`chain(focal_sam(...), opt)`")
@every_transform
def test_in_a_chain_the_optimizer_sees_the_corrected_gradient(name):
    tx = TRANSFORMS[name](rho=0.2)
    updates, _ = update(optax.chain(tx, optax.sgd(0.5)))
    assert_same(updates, scaled(corrected(tx), -0.5))


@row('`named_chain(("method", focal_sam(...)), ("opt", opt))`')
@every_transform
def test_a_named_chain_is_a_chain(name):
    tx = TRANSFORMS[name](rho=0.2)
    named = optax.named_chain(("method", tx), ("optimizer", optax.sgd(0.5)))
    updates, state = update(named)
    assert_same(updates, scaled(corrected(tx), -0.5))
    assert state["method"].count == 1


@row("`chain(clip_by_global_norm(c), focal_sam(...), opt)`")
@every_transform
def test_clipping_before_clips_the_plain_gradient(name):
    tx = TRANSFORMS[name](rho=0.2)
    updates, _ = update(optax.chain(optax.clip_by_global_norm(0.01), tx))
    plain = gradient()
    clipped = scaled(plain, 0.01 / optax.tree.norm(plain))
    correction = ref.add(corrected(tx), plain, -1.0)
    assert_same(updates, ref.add(clipped, correction), 1e-5)


@row("`chain(focal_sam(...), clip_by_global_norm(c), opt)`")
@every_transform
def test_clipping_after_clips_the_whole(name):
    tx = TRANSFORMS[name](rho=0.2)
    updates, _ = update(optax.chain(tx, optax.clip_by_global_norm(0.01)))
    whole = corrected(tx)
    assert_same(updates, scaled(whole, 0.01 / optax.tree.norm(whole)))


@pytest.mark.by_default(name=("focal_sam", "cc_sam"))
@row("`chain(add_decayed_weights(w), focal_sam(...), opt)`")
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
BUILDERS = {n: getattr(fsam, n) for n in NUMBERS}


def counts_for(name, as_type):
    return {} if name == "sam" else {"class_counts": as_type(ref.COUNTS)}


@pytest.mark.by_default(name=("focal_sam",))
@row("`inject_hyperparams(focal_sam)(..., rho=r)`")
@pytest.mark.parametrize("name", NUMBERS)
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


@pytest.mark.parametrize("name", NUMBERS)
def test_an_injected_schedule_drives_rho(name):
    counts = counts_for(name, list)
    schedule = optax.linear_schedule(0.0, 0.4, 2)
    tx = optax.inject_hyperparams(BUILDERS[name])(**counts, rho=schedule)
    step, state = jax.jit(partial(update, tx)), tx.init(PARAMS)
    for rho in (0.0, 0.2, 0.4):
        updates, state = step(state)
        assert_same(updates, corrected(BUILDERS[name](**counts, rho=rho)), 1e-5)


@row('`inject_hyperparams(focal_sam, static_args="mask")(..., mask=f)`')
@row("`inject_hyperparams(focal_sam)(..., mask=f)`")
@pytest.mark.parametrize("name", NUMBERS)
def test_an_injected_mask_is_static_or_explained(name):
    def mask(params):
        return jax.tree.map(lambda p: p.ndim == 2, params)

    options = {**counts_for(name, list), "rho": 0.2, "mask": mask}
    static = optax.inject_hyperparams(BUILDERS[name], static_args="mask")(**options)
    assert_same(corrected(static), corrected(BUILDERS[name](**options)))
    by_accident = options | {"mask": lambda p: jax.tree.map(lambda p: p.ndim < 2, p)}
    for dropped in (options, by_accident):  # ``mask(count)`` is False, then True
        with pytest.raises((TypeError, ValueError), match='static_args="mask"'):
            update(optax.inject_hyperparams(BUILDERS[name])(**dropped))


# --- wrappers that skip or accumulate -------------------------------------------------


@row("`chain(focal_sam(...), apply_if_finite(opt, n))`")
@every_transform
def test_apply_if_finite_after_the_method_catches_the_second_gradient(name):
    def barrier(params):  # finite here, NaN after the ascent
        inside = params * jnp.where(params < 1.01, 1.0, jnp.nan)
        return jnp.stack([jnp.sum(inside), *jnp.zeros(3)])[jnp.array([3, 2, 1, 0])]

    params, tx = jnp.ones(2), TRANSFORMS[name](rho=0.2)
    whole = optax.chain(tx, optax.apply_if_finite(optax.sgd(0.5), 3))
    updates, state = update(whole, f=barrier, params=params)
    assert np.all(np.isfinite(gradient(barrier, params)))
    assert not np.any(np.isfinite(corrected(tx, barrier, params)))
    np.testing.assert_array_equal(updates, np.zeros(2))
    assert state[1].total_notfinite == 1


@row("`apply_if_finite(chain(focal_sam(...), opt), n)`")
@every_transform
def test_apply_if_finite_around_the_method_is_explained(name):
    whole = optax.apply_if_finite(optax.chain(TRANSFORMS[name](), optax.sgd(0.5)), 3)
    message = rf"optax.chain\({name}\(\.\.\.\), optax.apply_if_finite\(optimizer"
    with pytest.raises(ValueError, match=message):
        update(whole)


@pytest.mark.by_default(name=("focal_sam", "cc_sam"))
@row("`MultiSteps(chain(focal_sam(...), opt), 1)`")
@every_transform
def test_multi_steps_of_one_step_is_the_method(name):
    tx = optax.chain(TRANSFORMS[name](rho=0.2), optax.sgd(0.5))
    updates, _ = jax.jit(partial(update, optax.MultiSteps(tx, 1)))()
    assert_same(updates, corrected(tx), 1e-5)


def test_multi_steps_of_one_step_may_reuse_an_ascent():
    tx = optax.chain(fsam.reuse_ascent(rho=0.2), optax.sgd(0.5))
    here, whole = fsam.evaluate(ALL, PARAMS), optax.MultiSteps(tx, 1)
    updates, _ = whole.update(here.grads, whole.init(PARAMS), PARAMS, evaluation=here)
    assert_same(updates, scaled(here.grads, -0.5))


def test_a_schedule_of_rho_counts_micro_batches():
    tx = fsam.sam(rho=lambda count: 0.1 * (1 + count))
    whole = optax.chain(tx, optax.MultiSteps(optax.sgd(1.0), every_k_schedule=2))
    state = whole.init(PARAMS)
    _, state = update(whole, state, FIRST)
    updates, _ = update(whole, state, SECOND)
    parts = corrected(fsam.sam(rho=0.1), FIRST), corrected(fsam.sam(rho=0.2), SECOND)
    assert_same(updates, scaled(ref.add(*parts), -0.5), 1e-5)


@pytest.mark.by_default(name=("focal_sam", "cc_sam"))
@row("`chain(focal_sam(...), MultiSteps(opt, k))`")
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


@row("`MultiSteps(chain(focal_sam(...), opt), k)`")
@every_transform
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_multi_steps_around_the_method_is_explained(name, compiled):
    tx = optax.chain(TRANSFORMS[name](), optax.sgd(0.5))
    multi = optax.MultiSteps(tx, every_k_schedule=2)
    call = partial(update, multi)
    message = rf"optax.chain\({name}\(\.\.\.\), optax.MultiSteps\(optimizer"
    with pytest.raises(ValueError, match=message):
        (jax.jit(call) if compiled else call)()


@row("`partition({True: focal_sam(...), False: opt}, labels)`")
@row("`masked(focal_sam(...), m)`")
@every_transform
@pytest.mark.parametrize("wrapper", ["masked", "partition"])
def test_a_masked_tree_is_refused_with_the_name_of_the_argument(name, wrapper):
    tx, mask = TRANSFORMS[name](), {"body": False, "head": True}
    if wrapper == "masked":
        whole = optax.masked(tx, mask)
    else:
        whole = optax.partition({True: tx, False: optax.sgd(0.1)}, mask)
    with pytest.raises(
        ValueError, match=rf"masked .* pass {name}\(\.\.\., mask=\.\.\.\)"
    ):
        update(whole)


@row("`chain(focal_sam(...), partition({...}, labels))`")
@every_transform
def test_in_front_of_partition_it_works(name):
    tx = TRANSFORMS[name](rho=0.2)
    groups = {"slow": optax.sgd(0.1), "fast": optax.sgd(1.0)}
    whole = optax.chain(tx, optax.partition(groups, {"body": "slow", "head": "fast"}))
    updates, _ = update(whole)
    assert_same(updates["body"], scaled(corrected(tx)["body"], -0.1))
    assert_same(updates["head"], scaled(corrected(tx)["head"], -1.0))


def test_weights_that_are_frozen_after_the_method_are_perturbed_unless_masked():
    frozen = {"body": "frozen", "head": "trained"}
    groups = {"frozen": optax.set_to_zero(), "trained": optax.identity()}
    norms = []
    for mask in (None, {"body": False, "head": True}):
        tx = fsam.sam(rho=0.2, mask=mask)
        updates, state = update(optax.chain(tx, optax.partition(groups, frozen)))
        assert optax.tree.norm(updates["body"]) == 0
        norms.append(optax.tree.get(state, "ascent_norm"))
    of_all, of_head = optax.tree.norm(gradient()), optax.tree.norm(gradient()["head"])
    np.testing.assert_allclose(norms, [of_all, of_head], rtol=1e-6)


@row("`flatten(chain(focal_sam(...), opt))`")
@row("`chain(focal_sam(...), flatten(opt))`")
@every_transform
def test_in_front_of_flatten_it_works_and_behind_it_is_explained(name):
    tx = TRANSFORMS[name](rho=0.2)
    updates, _ = update(optax.chain(tx, optax.flatten(optax.sgd(0.5))))
    assert_same(updates, scaled(corrected(tx), -0.5))
    message = rf"optax.chain\({name}\(\.\.\.\), optax.flatten\(optimizer"
    with pytest.raises(ValueError, match=message):
        update(optax.flatten(optax.chain(tx, optax.sgd(0.5))))


@pytest.mark.by_default(name=("focal_sam",))
@row("`chain(focal_sam(...), lbfgs())`")
@every_transform
def test_a_line_search_needs_a_loss_that_takes_what_is_not_for_it(name):
    tx = optax.chain(TRANSFORMS[name](rho=0.05), optax.lbfgs())

    @partial(jax.jit, static_argnums=0)
    def after_a_step(value_fn, params):
        here = fsam.evaluate(ALL, params)
        updates, _ = tx.update(
            here.grads,
            tx.init(params),
            params,
            evaluation=here,
            value=here.loss,
            grad=here.grads,
            value_fn=value_fn,
        )
        return ALL(optax.apply_updates(params, updates)).sum()

    assert after_a_step(lambda p, evaluation: ALL(p).sum(), PARAMS) < ALL(PARAMS).sum()
    if Version(optax.__version__) >= Version("0.2.8"):  # older ones do not raise
        with pytest.raises(TypeError, match="not consumed by `value_fn`"):
            after_a_step(lambda p: ALL(p).sum(), PARAMS)


# --- calls ----------------------------------------------------------------------------


@row("`focal_sam(..., mask=m)` with nothing selected")
@every_transform
@pytest.mark.parametrize("mask", [False, {"body": False, "head": False}])
def test_a_mask_that_selects_nothing_is_explained(name, mask):
    with pytest.raises(ValueError, match="mask must select something"):
        update(TRANSFORMS[name](mask=mask))


@row("`update(grads, state, params)`")
@every_transform
def test_a_call_without_the_loss_is_explained(name):
    tx = TRANSFORMS[name]()
    words = f"{name} needs the loss function.*evaluation=here"
    words += r".*params, per_class_loss_fn=f\).*shape"
    with pytest.raises(ValueError, match=words):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)


@row("`update(..., per_class_loss_fn=f)` with `f` returning `(losses, aux)`")
@every_transform
def test_aux_that_was_not_announced_is_explained(name):
    with pytest.raises(TypeError, match="pass has_aux=True"):
        update(TRANSFORMS[name](), f=lambda p: (ALL(p), 1), grads=PARAMS)


@row("`jit(update)(..., per_class_loss_fn=f)`")
@every_transform
def test_a_loss_that_went_through_jit_is_named_by_jax(name):
    tx = TRANSFORMS[name]()
    with pytest.raises(TypeError, match="function.* at path per_class_loss_fn"):
        jax.jit(tx.update)(PARAMS, tx.init(PARAMS), PARAMS, per_class_loss_fn=ALL)


@row("`chain(clip_by_global_norm(c), reuse_ascent(...))` with `evaluation=here`")
def test_what_reuse_ascent_would_lose_is_explained():
    here, reuse = fsam.evaluate(ALL, PARAMS), fsam.reuse_ascent(rho=0.1)
    tx = optax.chain(optax.clip_by_global_norm(0.01), reuse)
    with pytest.raises(ValueError, match="must come first in a chain"):
        tx.update(here.grads, tx.init(PARAMS), PARAMS, evaluation=here)
    first = optax.chain(reuse, optax.clip_by_global_norm(0.01))
    updates, _ = first.update(here.grads, first.init(PARAMS), PARAMS, evaluation=here)
    np.testing.assert_allclose(optax.tree.norm(updates), 0.01, rtol=1e-5)


# --- wrappers that keep their own parameters ------------------------------------------


@row("`schedule_free(chain(focal_sam(...), sgd(lr)), lr)`")
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


@row("`lookahead(chain(focal_sam(...), opt), ...)`")
@every_transform
def test_lookahead_takes_no_loss_and_in_a_chain_is_told_what_to_use(name):
    whole = optax.lookahead(TRANSFORMS[name](), sync_period=2, slow_step_size=0.5)
    params = optax.LookaheadParams.init_synced(PARAMS)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        update(whole, params=params, grads=gradient())
    advice = "as optax.lookahead does.*sharpness_aware_value_and_grad"
    with pytest.raises(ValueError, match=advice):
        update(optax.chain(whole), params=params, grads=gradient())


@row("`opt` after `sharpness_aware_value_and_grad(f, s, rho=r)`")
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


@row("`nnx.Optimizer(model, chain(focal_sam(...), opt), wrt=nnx.Param)`")
@every_transform
@pytest.mark.parametrize("evaluated", [True, False], ids=["evaluation", "function"])
def test_an_nnx_optimizer_hands_the_loss_on(name, evaluated):
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
    if evaluated:
        here = fsam.evaluate(f, nnx.state(model, nnx.Param))
        optimizer.update(model, here.grads, evaluation=here)
    else:
        grads = nnx.grad(lambda model: per_class_loss(model).sum())(model)
        optimizer.update(model, grads, per_class_loss_fn=f)
    after = nnx.state(model, nnx.Param)
    for new, old, g in zip(*map(jax.tree.leaves, (after, before, want)), strict=True):
        np.testing.assert_allclose(new, old - 0.5 * g, rtol=1e-5)
