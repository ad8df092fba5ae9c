"""``evaluate``: the caller's loss and gradient, which the method goes on from."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref
from tracing import counted

import focal_sam_jax as fsam

PARAMS = jax.tree.map(jnp.float32, ref.parameters())
HEAD_ONLY = {layer: layer == "head" for layer in PARAMS}
FOCAL = (0.1, 0.4, 0.7, 1.0)
TRANSFORMS = {
    "focal_sam": partial(fsam.focal_sam, ref.COUNTS, gamma=2.5, lam=0.8),
    "sam": fsam.sam,
    "imbsam": partial(fsam.imbsam, ref.COUNTS, tail_threshold=25),
    "imbsam, all in the tail": partial(fsam.imbsam, ref.COUNTS, tail_threshold=1e9),
    "imbsam, no tail": partial(fsam.imbsam, ref.COUNTS, tail_threshold=0),
    "cc_sam": partial(fsam.cc_sam, ref.COUNTS, alpha=0.7),
    "reuse_ascent": partial(fsam.reuse_ascent, FOCAL, lam=0.8),
    "looksam": lambda **options: fsam.looksam(fsam.sam(**options), every=2),
}
every_transform = pytest.mark.parametrize("make", TRANSFORMS.values(), ids=TRANSFORMS)


def per_class_loss(params):
    losses = ref.example_losses(params, ref.X, ref.Y, xp=jnp)
    return fsam.per_class_losses(losses, ref.Y, ref.CLASSES)


def with_aux(params):
    return per_class_loss(params), {"seen": params["head"]}


assert_same = partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)


def two_updates(tx, f, evaluated, has_aux=False):
    """The second step has what the first left behind, as the approximations need it."""
    state, all_updates = tx.init(PARAMS), []
    for _ in range(2):
        here = fsam.evaluate(f, PARAMS, has_aux=has_aux)
        known = {"evaluation": here} if evaluated else {}
        updates, state = tx.update(
            here.grads, state, PARAMS, per_class_loss_fn=f, **known
        )
        all_updates.append(updates)
    return all_updates, optax.tree.get(state, "info")


def test_it_is_value_and_grad_of_the_sum_of_the_classes():
    here = fsam.evaluate(with_aux, PARAMS, has_aux=True)
    loss, grads = jax.value_and_grad(lambda p: per_class_loss(p).sum())(PARAMS)
    np.testing.assert_allclose(here.loss, loss, rtol=1e-6)
    assert_same(here.grads, grads)
    np.testing.assert_array_equal(here.losses, per_class_loss(PARAMS))
    assert_same(here.aux["seen"], PARAMS["head"])


def test_it_takes_one_function_a_class():
    functions = [lambda p, c=c: per_class_loss(p)[c] for c in range(ref.CLASSES)]
    here, wanted = (fsam.evaluate(f, PARAMS) for f in (functions, per_class_loss))
    assert here.aux is None
    assert_same(here.grads, wanted.grads)


@every_transform
@pytest.mark.parametrize("options", [{}, {"mask": HEAD_ONLY}], ids=["all", "head"])
def test_the_numbers_are_those_without_it(make, options):
    tx = make(rho=0.5, **options)
    got, wanted = (two_updates(tx, per_class_loss, known) for known in (True, False))
    assert_same(got, wanted)


def test_it_may_come_with_aux_and_from_the_middle_of_a_chain():
    tx = optax.chain(
        optax.clip_by_global_norm(0.01),
        fsam.focal_sam(ref.COUNTS, rho=0.5, has_aux=True),
        optax.sgd(0.1),
    )
    got, wanted = (two_updates(tx, with_aux, known, True) for known in (True, False))
    assert_same(got, wanted)


@pytest.mark.parametrize(
    ("name", "calls"),
    # CC-SAM's classes share one trace.
    [("focal_sam", 2), ("sam", 2), ("imbsam", 2), ("reuse_ascent", 2), ("cc_sam", 2)],
)
def test_the_loss_function_is_called_once_at_each_place(name, calls):
    f = counted(per_class_loss)

    @jax.jit
    def step(params):
        here = fsam.evaluate(f, params)
        tx = TRANSFORMS[name](rho=0.5)
        return tx.update(
            here.grads,
            tx.init(params),
            params,
            per_class_loss_fn=f,
            evaluation=here,
        )

    step(PARAMS)
    assert f.traces == calls


def test_with_labels_the_shared_backward_pass_makes_one_of_its_own():
    def losses(params):
        out = fsam.apply_per_example(lambda w, x: x @ w, params, ref.X)
        each = fsam.losses.cross_entropy(out, ref.Y)
        return fsam.per_class_losses(each, ref.Y, ref.CLASSES)

    params = jnp.ones((ref.X.shape[1], ref.CLASSES))
    tx = fsam.focal_sam(ref.COUNTS, rho=0.5)
    here = fsam.evaluate(losses, params)
    update = partial(
        tx.update, here.grads, tx.init(params), params, per_class_loss_fn=losses
    )
    got = update(evaluation=here, per_example_labels=ref.Y)
    assert_same(got, update())


# --- what can go wrong ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: per_class_loss(PARAMS), TypeError, "focal_sam_jax.evaluate(loss_fn"),
        (
            lambda: fsam.evaluate(lambda p: per_class_loss(p)[:2], PARAMS),
            ValueError,
            "of 4 classes, as class_counts has, got losses of shape (2,)",
        ),
        (
            lambda: fsam.evaluate(lambda p: p[None], jnp.ones(())),
            ValueError,
            "of the parameters that update gets",
        ),
        (
            lambda: fsam.evaluate(lambda p: per_class_loss(p).mean(), PARAMS),
            ValueError,
            "did you take the mean?",
        ),
        (lambda: fsam.evaluate(with_aux, PARAMS), TypeError, "pass has_aux=True"),
    ],
    ids=["array", "classes", "parameters", "mean", "aux"],
)
@pytest.mark.parametrize("name", ["focal_sam", "cc_sam", "reuse_ascent"])
def test_another_evaluation_is_refused(name, make, error, words):
    tx = TRANSFORMS[name](rho=0.5)
    with pytest.raises(error, match=re.escape(words)):
        tx.update(
            PARAMS,
            tx.init(PARAMS),
            PARAMS,
            per_class_loss_fn=per_class_loss,
            evaluation=make(),
        )


def test_one_axis_for_both():
    tx = fsam.sam(rho=0.5, axis_name="data")

    @partial(jax.vmap, axis_name="data", axis_size=2, in_axes=None)
    def step(params):
        return tx.update(
            params,
            tx.init(params),
            params,
            per_class_loss_fn=per_class_loss,
            evaluation=fsam.evaluate(per_class_loss, params),
        )

    with pytest.raises(ValueError, match="same axis_name, got None and 'data'"):
        step(PARAMS)
