"""Tests of ``evaluate``, which gives the caller's loss and gradient to a method."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref
from oracle_jax import PARAMS, one_by_one, per_class_loss, plain, update
from tracing import counted

import focal_sam_jax as fsam

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


def with_aux(params):
    return per_class_loss(params), {"seen": params["head"]}


assert_same = partial(chex.assert_trees_all_close, rtol=1e-5, atol=1e-6)


def two_updates(tx, f, evaluated, has_aux=False):
    """Makes two updates, since the approximations reuse results of the first."""
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
    loss, grads = plain(PARAMS)
    np.testing.assert_allclose(here.loss, loss, rtol=1e-6)
    assert_same(here.grads, grads)
    np.testing.assert_array_equal(here.losses, per_class_loss(PARAMS))
    assert_same(here.aux["seen"], PARAMS["head"])


def test_it_takes_one_function_a_class():
    here, wanted = (fsam.evaluate(f, PARAMS) for f in (one_by_one(), per_class_loss))
    assert here.aux is None
    assert_same(here.grads, wanted.grads)


@pytest.mark.by_default(options=({},))
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


# --- labels ---------------------------------------------------------------------------

X, Y = jnp.asarray(ref.X, jnp.float32), jnp.asarray(ref.Y)
BY_LABELS = {"labels": Y, "num_classes": ref.CLASSES}


def example_losses(params):
    return ref.example_losses(params, ref.X, ref.Y, xp=jnp)


def one_update(tx, here, **extra):
    return tx.update(here.grads, tx.init(PARAMS), PARAMS, evaluation=here, **extra)


@every_transform
def test_with_labels_update_needs_nothing_else(make):
    tx = make(rho=0.5)
    here = fsam.evaluate(example_losses, PARAMS, **BY_LABELS)
    wanted = fsam.evaluate(per_class_loss, PARAMS)
    assert_same((here.loss, here.losses, here.grads), wanted_of(wanted))
    got = one_update(tx, here)
    assert_same(got, update(tx, PARAMS))


def wanted_of(here):
    return here.loss, here.losses, here.grads


def test_labels_may_be_soft():
    soft = jnp.asarray(
        np.random.default_rng(0).dirichlet(np.ones(4), len(Y)), "float32"
    )

    def by_class(params):
        return jnp.mean(soft * example_losses(params)[:, None], axis=0)

    here = fsam.evaluate(example_losses, PARAMS, labels=soft, num_classes=4)
    wanted = fsam.evaluate(by_class, PARAMS)
    assert_same(wanted_of(here), wanted_of(wanted))
    tx = fsam.focal_sam(ref.COUNTS, rho=0.5)
    assert_same(one_update(tx, here), one_update(tx, wanted))


@pytest.mark.parametrize("shape", [(2, 5), (5, 2), (5, 1, 2)])
def test_labels_may_have_any_number_of_axes(shape):
    here = fsam.evaluate(
        lambda p: example_losses(p).reshape(shape),
        PARAMS,
        labels=Y.reshape(shape),
        num_classes=ref.CLASSES,
    )
    wanted = fsam.evaluate(example_losses, PARAMS, **BY_LABELS)
    assert_same(wanted_of(here), wanted_of(wanted))
    tx = fsam.imbsam(ref.COUNTS, rho=0.5, tail_threshold=25)
    assert_same(one_update(tx, here), one_update(tx, wanted))


def test_where_says_what_counts():
    counts = np.arange(10) < 7
    here = fsam.evaluate(example_losses, PARAMS, **BY_LABELS, where=counts)
    x, y = ref.X[:7], ref.Y[:7]
    some = fsam.evaluate(
        lambda p: ref.example_losses(p, x, y, xp=jnp),
        PARAMS,
        labels=y,
        num_classes=ref.CLASSES,
    )
    assert_same(wanted_of(here), wanted_of(some))


@pytest.mark.by_default(checked=(True,))
@pytest.mark.parametrize("checked", [True, False, None], ids=["vma", "no vma", "vmap"])
@pytest.mark.parametrize("second", [[0, 0, 0, 1, 0], [0] * 5], ids=["some", "none"])
def test_where_counts_over_all_devices(checked, second):
    """Of five examples per device, four count on one, one or none on the other."""
    counts = jnp.array([1, 1, 1, 1, 0, *second], bool)
    tx = fsam.focal_sam(ref.COUNTS, rho=0.5, axis_name="data")

    def step(x, y, counts):
        here = fsam.evaluate(
            lambda p: ref.example_losses(p, x, y, xp=jnp),
            PARAMS,
            labels=y,
            num_classes=ref.CLASSES,
            where=counts,
            axis_name="data",
        )
        return here.loss, here.losses, one_update(tx, here)[0]

    if checked is None:
        shares = (a.reshape(2, 5, *a.shape[1:]) for a in (X, Y, counts))
        both = jax.vmap(step, axis_name="data")(*shares)
        got = jax.tree.map(lambda leaf: leaf[0], both)
    else:
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",))
        rows, whole = (jax.sharding.PartitionSpec(*axes) for axes in (["data"], []))
        options = {"mesh": mesh, "out_specs": whole, "check_vma": checked}
        got = jax.jit(jax.shard_map(step, in_specs=(rows,) * 3, **options))(
            X, Y, counts
        )
    whole = fsam.evaluate(example_losses, PARAMS, **BY_LABELS, where=counts)
    alone = fsam.focal_sam(ref.COUNTS, rho=0.5)
    assert_same(got, (whole.loss, whole.losses, one_update(alone, whole)[0]))


def test_where_may_be_a_list_and_parameters_of_numpy():
    @partial(jax.vmap, axis_name="data", axis_size=1, in_axes=None)
    def loss(params):
        return fsam.evaluate(
            example_losses,
            params,
            **BY_LABELS,
            where=[True] * 7 + [False] * 3,
            axis_name="data",
        ).loss

    np.testing.assert_allclose(loss(PARAMS)[0], example_losses(PARAMS)[:7].mean())
    doubles = ref.parameters()  # float64, which JAX converts to float32
    here = fsam.evaluate(example_losses, doubles, **BY_LABELS)
    tx = fsam.focal_sam(ref.COUNTS)
    got, _ = tx.update(here.grads, tx.init(doubles), doubles, evaluation=here)
    assert_same(got, one_update(tx, fsam.evaluate(per_class_loss, PARAMS))[0])


def test_aux_comes_along_with_labels():
    here = fsam.evaluate(
        lambda p: (example_losses(p), "seen"), PARAMS, **BY_LABELS, has_aux=True
    )
    assert here.aux == "seen"
    wanted = fsam.evaluate(example_losses, PARAMS, **BY_LABELS)
    tx = fsam.sam(rho=0.5)
    assert_same(one_update(tx, here), one_update(tx, wanted))


def test_sam_takes_a_scalar_loss():
    wanted, _ = one_update(fsam.sam(rho=0.5), fsam.evaluate(per_class_loss, PARAMS))

    def mean(params):
        return example_losses(params).mean()

    here = fsam.evaluate(mean, PARAMS)
    assert here.loss.shape == ()
    grads = jax.grad(mean)(PARAMS)
    for tx in (fsam.sam(rho=0.5), fsam.sharpness_aware(1.0, rho=0.5)):
        state = tx.init(PARAMS)
        assert_same(one_update(tx, here)[0], wanted)
        got, _ = tx.update(grads, state, PARAMS, per_class_loss_fn=mean)
        assert_same(got, wanted)
    _, got = fsam.sharpness_aware_value_and_grad(mean, 1.0, rho=0.5)(PARAMS)
    assert_same(got, wanted)


@jax.tree_util.register_pytree_node_class
class Wrapped:
    """A container of one array, like a variable of Flax NNX."""

    def __init__(self, value):
        self.value = value

    def tree_flatten(self):
        return (self.value,), None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


@every_transform
@pytest.mark.parametrize("mask", [None, HEAD_ONLY], ids=["all", "head"])
def test_a_wrapper_may_have_stripped_the_containers(make, mask):
    wrapped = jax.tree.map(Wrapped, PARAMS)

    def losses(params):
        return example_losses(jax.tree.map(_value, params, is_leaf=_is_wrapped))

    tx = make(rho=0.5, mask=mask)
    here = fsam.evaluate(losses, wrapped, **BY_LABELS)
    grads = jax.tree.map(_value, here.grads, is_leaf=_is_wrapped)
    got = tx.update(grads, tx.init(PARAMS), PARAMS, evaluation=here)
    wanted = one_update(tx, fsam.evaluate(example_losses, PARAMS, **BY_LABELS))
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    assert_same(got, wanted)


def _is_wrapped(node):
    return isinstance(node, Wrapped)


def _value(node):
    return node.value


# --- networks without cross-example layers --------------------------------------------


def alone(params):
    """Computes per-example losses by a network that uses ``apply_per_example``."""

    def dense(p, x):
        return x @ p["kernel"] + p["bias"][None]

    h = jnp.tanh(fsam.apply_per_example(dense, params["body"], X))
    return fsam.losses.cross_entropy(
        fsam.apply_per_example(dense, params["head"], h), Y
    )


@pytest.mark.by_default(
    kind=("hard",), make=(TRANSFORMS["focal_sam"], TRANSFORMS["cc_sam"])
)
@every_transform
@pytest.mark.parametrize("kind", ["hard", "soft", "shares of any sum"])
def test_without_mixing_the_numbers_are_the_same(make, kind):
    labels = Y
    if kind != "hard":
        labels = jax.nn.one_hot(Y, ref.CLASSES) * 0.9 + 0.025
    if kind == "shares of any sum":
        labels *= jnp.linspace(0, 2, len(Y))[:, None]
    known = {"labels": labels, "num_classes": ref.CLASSES}
    tx = make(rho=0.5)

    @partial(jax.jit, static_argnums=0)
    def step(promised):
        here = fsam.evaluate(alone, PARAMS, **known, per_example=promised)
        return here.loss, here.grads, one_update(tx, here)

    assert_same(step(True), step(False))


def test_without_mixing_the_loss_runs_twice():
    runs = []

    def observed(params):
        jax.debug.callback(lambda: runs.append(1))
        return alone(params)

    @jax.jit
    def step(params):
        here = fsam.evaluate(observed, params, **BY_LABELS, per_example=True)
        return one_update(fsam.focal_sam(ref.COUNTS), here)

    jax.block_until_ready(step(PARAMS))
    jax.effects_barrier()
    assert len(runs) == 2


@pytest.mark.parametrize("weights", [1.0, FOCAL], ids=["equal", "focal"])
def test_labels_of_the_old_form_are_looked_at_in_every_path(weights):
    tx = fsam.sharpness_aware(weights)
    here, pixels = fsam.evaluate(per_class_loss, PARAMS), jnp.ones((10, 2, 2), int)
    with pytest.raises(TypeError, match="evaluation must be the result .* got str"):
        tx.update(
            PARAMS,
            tx.init(PARAMS),
            PARAMS,
            per_class_loss_fn=per_class_loss,
            evaluation="nonsense",
            per_example_labels=Y,
        )
    for make in (fsam.sam, partial(fsam.reuse_ascent, weights, rho=0.1)):
        with pytest.raises(ValueError, match="per_example_labels must be the class"):
            make().update(
                PARAMS,
                make().init(PARAMS),
                PARAMS,
                per_class_loss_fn=per_class_loss,
                per_example_labels="nonsense",
            )
    for known in ({"evaluation": here}, {"per_class_loss_fn": per_class_loss}):
        with pytest.raises(ValueError, match="per_example_labels must be the class"):
            tx.update(
                PARAMS,
                tx.init(PARAMS),
                PARAMS,
                **known,
                per_example_labels=pixels,
            )


# --- errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: per_class_loss(PARAMS), TypeError, "focal_sam_jax.evaluate(loss_fn"),
        (
            lambda: fsam.evaluate(lambda p: per_class_loss(p)[:2], PARAMS),
            ValueError,
            "have 4 classes, like class_counts, weights or groups, got 2; did",
        ),
        (
            lambda: fsam.evaluate(lambda p: p[None], jnp.ones(())),
            ValueError,
            "of the parameters passed to update",
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


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: evaluate(labels=Y), ValueError, "labels need num_classes"),
        (lambda: evaluate(where=Y > 0), ValueError, "where needs labels, got none"),
        (
            lambda: evaluate(per_example=True),
            ValueError,
            "per_example needs labels",
        ),
        (
            lambda: evaluate(lambda p: example_losses(p).mean(), **BY_LABELS),
            ValueError,
            "loss of every example, shape (10,) like labels, got (); take no mean",
        ),
        (
            lambda: evaluate(per_class_loss, **BY_LABELS),
            ValueError,
            "loss of every example, shape (10,) like labels, got (4,)",
        ),
        (
            lambda: evaluate(lambda p: example_losses(p)[:, None], **BY_LABELS),
            ValueError,
            "got (10, 1); remove the last axis.",
        ),
        (
            lambda: evaluate(
                example_losses, **BY_LABELS | {"labels": ref.Y.astype(np.float32)}
            ),
            ValueError,
            "got shape (10,); class ids must be ints",
        ),
        (
            lambda: evaluate([example_losses], **BY_LABELS),
            TypeError,
            "loss_fn must be one function of the parameters, got list",
        ),
        (
            lambda: evaluate(labels=jnp.ones((10, 3)), num_classes=4),
            ValueError,
            "soft labels must have the shape of losses and one axis for the classes",
        ),
        (
            lambda: evaluate(**BY_LABELS, where=jnp.full(10, 0.5)),
            TypeError,
            "where must be bools, got float32",
        ),
        (
            lambda: evaluate(
                lambda p: example_losses(p).reshape(2, 5),
                labels=Y.reshape(2, 5),
                num_classes=4,
                per_example=True,
            ),
            ValueError,
            "with per_example, labels must be the class ids of the batch",
        ),
        (
            lambda: evaluate(**BY_LABELS, per_example=True),
            ValueError,
            "only through focal_sam_jax.apply_per_example",
        ),
        (
            lambda: fsam.evaluate(
                lambda p: p["w"], {"w": jnp.ones(2), "n": jnp.arange(2)}
            ),
            TypeError,
            "parameters must be floats, got int32 at ['n']: split off the trainable",
        ),
        (
            lambda: fsam.evaluate(lambda p: p["w"], None),
            TypeError,
            "parameters must be arrays of floats, got None",
        ),
        (
            lambda: fsam.evaluate(lambda p: p.real, jnp.ones(2, "complex64")),
            TypeError,
            "parameters must be real floats, got complex64 at the root",
        ),
        (
            lambda: fsam.evaluate(lambda p: p["a"] ** 2, {"a": 1.5}),
            TypeError,
            "parameters must be arrays of floats, got the number 1.5 at ['a']",
        ),
        (lambda: evaluate("loss"), TypeError, "must be a function of the parameters"),
        (lambda: evaluate(labels=Y, num_classes=True), ValueError, "a whole number"),
    ],
)
def test_what_evaluate_cannot_use_is_explained(call, error, words):
    with pytest.raises(error, match=re.escape(words)):
        call()


def evaluate(loss_fn=example_losses, **options):
    return fsam.evaluate(loss_fn, PARAMS, **options)


def test_an_evaluation_in_the_place_of_the_gradient_is_explained():
    tx = fsam.sam()
    here = fsam.evaluate(per_class_loss, PARAMS)
    with pytest.raises(TypeError, match="pass evaluation.grads"):
        tx.update(here, tx.init(PARAMS), PARAMS, evaluation=here)
