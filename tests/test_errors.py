"""Tests of error messages: what was passed, what is valid, what to do."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import focal_sam_jax as fsam

COUNTS = np.array([90, 9, 1])
PARAMS = {"w": jnp.array([1.0, 2.0, 3.0]), "b": jnp.ones(())}

TRANSFORMS = {
    "sam": fsam.sam,
    "imbsam": partial(fsam.imbsam, COUNTS),
    "focal_sam": partial(fsam.focal_sam, COUNTS),
    "cc_sam": partial(fsam.cc_sam, COUNTS),
    "sse_sam": lambda rho=0.05, **options: fsam.sse_sam(
        COUNTS,
        head_rho=rho,
        tail_rho=rho,
        tail_threshold=20,
        switch_step=9,
        **options,
    ),
    "sharpness_aware": partial(fsam.sharpness_aware, 1 / COUNTS),
    "class_conditional": partial(fsam.class_conditional, [0.1] * 3),
}
engine = fsam.sharpness_aware_value_and_grad
class_engine = fsam.class_conditional_value_and_grad
every_transform = pytest.mark.parametrize("name", TRANSFORMS)


def losses_of(params):
    return params["w"] ** 2 + params["b"]


def update(tx, f=losses_of, updates=PARAMS, params=PARAMS):
    return tx.update(updates, tx.init(params), params, per_class_loss_fn=f)


# Everything that takes a loss function, called with it and with options.
CALLS = {
    **{
        n: lambda f=losses_of, m=m, **o: update(m(**o), f)
        for n, m in TRANSFORMS.items()
    },
    "engine": lambda f=losses_of, **o: engine(f, 1 / COUNTS, rho=0.1, **o)(PARAMS),
    "class engine": lambda f=losses_of, **o: class_engine(f, COUNTS, **o)(PARAMS),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
every_call_with_classes = pytest.mark.parametrize(
    "call", [call for name, call in CALLS.items() if name != "sam"]
)


def refuses(error, call, *words):
    """Checks that ``call`` raises a message with all words, also when traced."""
    pattern = "(?s)" + ".*".join(map(re.escape, words))
    with pytest.raises(error, match=pattern):
        call()
    with pytest.raises(error, match=pattern):
        jax.eval_shape(lambda: call() and None)


# --- class counts ---------------------------------------------------------------------

COUNTED = {
    "class_priors": fsam.class_priors,
    "focal_weights": lambda n: fsam.focal_weights(n, 1.0),
    "tail_weights": lambda n: fsam.tail_weights(n, 20),
    "cc_sam_radii": lambda n: fsam.cc_sam_radii(n, 0.1),
    "focal_sam": fsam.focal_sam,
    "imbsam": fsam.imbsam,
    "cc_sam": fsam.cc_sam,
    "sse_sam": lambda n: fsam.sse_sam(
        n, head_rho=0, tail_rho=0, tail_threshold=20, switch_step=1
    ),
}


@pytest.mark.parametrize("function", COUNTED.values(), ids=COUNTED)
@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ([], ("1-D", "(num_classes,)", "got shape (0,)")),
        (7, ("1-D", "got shape ()")),
        ([[3, 4]], ("1-D", "got shape (1, 2)")),
        ([3, -1], ("finite and not negative", "got [3, -1]")),
        ([3, np.nan], ("finite and not negative", "nan")),
        ([3, np.inf], ("finite and not negative", "inf")),
        ([0, 5, 0], ("at least two classes", "got [0, 5, 0]", "no tail")),
        ([0, 0], ("at least two classes", "got [0, 0]")),
    ],
    ids=str,
)
def test_class_counts_without_a_meaning(function, counts, words):
    refuses(ValueError, lambda: function(counts), "class_counts must", *words)


@pytest.mark.parametrize(
    "function", [f for n, f in COUNTED.items() if not n.startswith("cc_")]
)
def test_a_single_class_has_no_tail(function):
    refuses(ValueError, lambda: function([5]), "at least two classes", "got [5]")


@pytest.mark.parametrize("function", COUNTED.values(), ids=COUNTED)
def test_traced_class_counts_are_refused_by_shape(function):
    with pytest.raises(ValueError, match=r"1-D .* got shape \(2, 2\)"):
        jax.eval_shape(lambda n: function(n) and None, jnp.ones((2, 2)))


# --- numbers --------------------------------------------------------------------------

SSE = {"head_rho": 0.1, "tail_rho": 0.1, "tail_threshold": 20, "switch_step": 9}
NUMBERS = {
    **{
        f"{n}(rho)": ("rho", lambda v, m=m: m(rho=v))
        for n, m in TRANSFORMS.items()
        if n not in ("sse_sam", "class_conditional")
    },
    **{
        f"sse_sam({n})": (n, lambda v, n=n: fsam.sse_sam(COUNTS, **(SSE | {n: v})))
        for n in SSE
    },
    "sharpness_aware(lam)": ("lam", lambda v: fsam.sharpness_aware(1.0, lam=v)),
    "class_conditional": (
        "alpha",
        lambda v: fsam.class_conditional([0.1] * 3, alpha=v),
    ),
    "focal_sam(gamma)": ("gamma", lambda v: fsam.focal_sam(COUNTS, gamma=v)),
    "focal_sam(lam)": ("lam", lambda v: fsam.focal_sam(COUNTS, lam=v)),
    "cc_sam(alpha)": ("alpha", lambda v: fsam.cc_sam(COUNTS, alpha=v)),
    "imbsam": ("threshold", lambda v: fsam.imbsam(COUNTS, tail_threshold=v)),
    "focal_weights": ("gamma", lambda v: fsam.focal_weights(COUNTS, v)),
    "tail_weights": ("threshold", lambda v: fsam.tail_weights(COUNTS, v)),
    "cc_sam_radii": ("rho", lambda v: fsam.cc_sam_radii(COUNTS, v)),
    "engine(rho)": ("rho", lambda v: engine(losses_of, 1.0, rho=v)),
    "engine(lam)": ("lam", lambda v: engine(losses_of, 1.0, rho=0.1, lam=v)),
    "class engine": ("alpha", lambda v: class_engine(losses_of, COUNTS, alpha=v)),
}


@pytest.mark.parametrize(("name", "function"), NUMBERS.values(), ids=NUMBERS)
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf"), np.array(-3)])
def test_a_number_out_of_range(name, function, value):
    words = f"{name} must be a finite number >= 0", f"got {value}"
    refuses(ValueError, lambda: function(value), *words)


@pytest.mark.parametrize(("name", "function"), NUMBERS.values(), ids=NUMBERS)
def test_an_array_or_a_word_for_a_number(name, function):
    refuses(ValueError, lambda: function(np.ones(3)), name, "got shape (3,)")
    refuses(TypeError, lambda: function("big"), name, "got 'big'")
    refuses(TypeError, lambda: function("0.1"), name, "got '0.1'")
    with pytest.raises(ValueError, match=rf"{name} .*got shape \(2,\)"):
        jax.eval_shape(lambda v: function(v) and None, jnp.ones(2))


@pytest.mark.parametrize("value", [1.5, 2])
def test_alpha_is_a_share(value):
    words = "alpha must be", ">= 0 and <= 1", f"got {value}"
    refuses(ValueError, lambda: fsam.cc_sam(COUNTS, alpha=value), *words)
    refuses(ValueError, lambda: class_engine(losses_of, COUNTS, alpha=value), *words)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        v
        for k, v in NUMBERS.items()
        if k.split("(")[0] not in TRANSFORMS or "rho" not in k
    ],
)
def test_a_schedule_where_none_is_taken(name, function):
    words = name, "got the function", "A schedule is accepted for the rho", "call it"
    refuses(TypeError, lambda: function(lambda step: 0.1), *words)


@pytest.mark.parametrize(
    ("radii", "words"),
    [
        (0.1, ("one radius per class", "got shape ()", "cc_sam_radii")),
        ([[0.1]], ("one radius per class", "got shape (1, 1)")),
        ([0.1, -0.1, 0.1], ("finite and >= 0", "-0.1")),
        ([0.1, np.nan, 0.1], ("finite and >= 0", "nan")),
        ([0.1, np.inf, 0.1], ("finite and >= 0", "inf")),
    ],
)
def test_radii_without_a_meaning(radii, words):
    refuses(ValueError, lambda: class_engine(losses_of, radii), "rho must", *words)
    refuses(ValueError, lambda: fsam.class_conditional(radii), "radii must", *words)
    scheduled = fsam.class_conditional(lambda count: radii)
    refuses(ValueError, lambda: update(scheduled), "radii must", *words)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([], ("(num_classes,)", "got shape (0,)")),
        ([[1.0, 2.0]], ("(num_classes,)", "got shape (1, 2)")),
        ([1.0, np.nan], ("finite", "nan")),
        (np.inf, ("finite", "inf")),
    ],
)
def test_class_weights_without_a_meaning(weights, words):
    call = partial(engine, losses_of, weights, rho=0.1)
    refuses(ValueError, call, "class_weights must", *words)
    call = partial(fsam.sharpness_aware, weights)
    refuses(ValueError, call, "class_weights must", *words)
    scheduled = fsam.sharpness_aware(lambda count: weights)
    refuses(ValueError, lambda: update(scheduled), "class_weights must", *words)


@pytest.mark.parametrize(
    ("groups", "error", "words"),
    [
        ([[0, 1]], ValueError, "ints of shape (num_classes,), got shape (1, 2)"),
        ([0.0, 1.0, 1.0], TypeError, "groups must be ints, got float64"),
        ([0, -1, 1], ValueError, "groups must be numbered from 0, got [0, -1, 1]"),
        ([0, 1, 2], ValueError, "one radius each, got group 2 for 2 radii"),
    ],
)
def test_groups_without_a_meaning(groups, error, words):
    refuses(error, lambda: fsam.class_conditional([0.1, 0.2], groups=groups), words)


def test_what_decides_the_groups_must_be_known():
    for build in (
        lambda n: fsam.class_conditional([0.1, 0.2], groups=n),
        lambda n: fsam.sse_sam(n, **SSE),
    ):
        with pytest.raises(TypeError, match="when .* built, got .*traced"):
            jax.eval_shape(lambda n, build=build: build(n) and None, COUNTS)


SCHEDULED = {
    **{
        n: lambda rho, m=m: m(rho=rho)
        for n, m in TRANSFORMS.items()
        if n not in ("sse_sam", "class_conditional")
    },
    "sse_sam": lambda rho: fsam.sse_sam(COUNTS, **(SSE | {"head_rho": rho})),
    "reuse_ascent": lambda rho: fsam.reuse_ascent(rho=rho),
}


@pytest.mark.parametrize("make", SCHEDULED.values(), ids=SCHEDULED)
@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (jnp.ones(3), ValueError, "got shape (3,)"),
        (-0.1, ValueError, "got -0.1"),
        (np.nan, ValueError, "got nan"),
        (None, TypeError, "got None"),
        ("x", TypeError, "got 'x'"),
    ],
)
def test_what_a_schedule_of_rho_returns_is_checked(make, value, error, words):
    refuses(error, lambda: update(make(lambda count: value)), "rho must be", words)


@pytest.mark.parametrize("numbers", [["1", "2", "3"], [1j, 1, 2]], ids=str)
def test_numbers_of_the_classes_are_numbers(numbers):
    for build in (
        lambda v: fsam.focal_weights(v, 1.0),
        fsam.sharpness_aware,
        fsam.class_conditional,
    ):
        refuses(TypeError, lambda build=build: build(numbers), "must be numbers, got")


@pytest.mark.parametrize(
    ("weights", "error", "words"),
    [
        (np.ones((3, 1)), ValueError, "(num_classes,), got shape (3, 1)"),
        (np.ones(2), ValueError, "shape (3,), got shape (2,)"),
        ("a", TypeError, "numbers, got 'a'"),
    ],
)
def test_weights_to_measure_by(weights, error, words):
    losses = fsam.sharpness.class_losses(losses_of)
    key = jax.random.key(0)
    for measure in (
        lambda: fsam.sharpness.sharpness(losses, PARAMS, weights, rho=0.1),
        lambda: fsam.sharpness.trace(losses, PARAMS, weights, key=key, samples=1),
    ):
        refuses(error, measure, "class_weights must", words)


# --- the loss function ----------------------------------------------------------------


@every_call
@pytest.mark.parametrize("wrong", [lambda w: w[None, :], lambda w: w[:, None]])
def test_losses_of_a_wrong_shape_ask_for_the_mean(call, wrong):
    words = "one loss per class", "(", "got shape", "did you take the mean?"
    refuses(ValueError, lambda: call(lambda p: wrong(p["w"])), *words)


@every_call_with_classes
def test_the_mean_loss_is_not_the_loss_of_each_class(call):
    words = "one loss per class", "shape (3,)", "got shape ()", "did you take the mean?"
    refuses(ValueError, lambda: call(lambda p: jnp.sum(p["w"])), *words)


@every_call_with_classes
def test_losses_of_another_number_of_classes(call):
    words = "shape (3,)", "got shape (2,)", "per_class_losses"
    refuses(ValueError, lambda: call(lambda p: p["w"][:2]), *words)


@every_call
def test_losses_that_are_no_floats(call):
    refuses(TypeError, lambda: call(lambda p: jnp.arange(3)), "floats", "got int32")
    refuses(TypeError, lambda: call(lambda p: 1.0), "array of floats", "got float")


@every_call
def test_aux_that_was_not_announced(call):
    words = "got a tuple of 2", "(losses, aux)", "pass has_aux=True"
    refuses(TypeError, lambda: call(lambda p: (losses_of(p), 1)), *words)


@every_call
def test_aux_that_does_not_come(call):
    words = "with has_aux=True", "must return (losses, aux)", "got "
    refuses(TypeError, lambda: call(has_aux=True), *words)
    three = lambda p: (losses_of(p), 1, 2)  # noqa: E731
    refuses(TypeError, lambda: call(three, has_aux=True), *words)


@every_call
def test_a_list_of_functions_has_no_aux(call):
    words = "has_aux=True needs one per_class_loss_fn", "got a sequence"
    refuses(ValueError, lambda: call([losses_of] * 3, has_aux=True), *words)


@every_call
def test_the_value_of_the_loss_in_place_of_the_function(call):
    words = "must be a function", "got ", "pass the function itself"
    refuses(TypeError, lambda: call(losses_of(PARAMS)), *words)


@every_call_with_classes
@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_list_of_the_wrong_length(call, count):
    words = "one function for each of the 3 classes", f"got {count}"
    functions = [lambda p: p["b"]] * count
    refuses(ValueError, lambda: call(functions), *words)


@every_call
def test_a_list_of_functions_to_arrays(call):
    words = "each function", "must return a scalar", "got shape (3,)"
    refuses(ValueError, lambda: call([losses_of] * 3), *words)


# --- the call of update ---------------------------------------------------------------


@every_transform
def test_params_are_missing(name):
    tx = TRANSFORMS[name]()
    call = partial(tx.update, PARAMS, tx.init(PARAMS), per_class_loss_fn=losses_of)
    words = f"{name} needs the parameters", "params=None", "call tx.update(grads, state"
    refuses(ValueError, call, *words)


@every_transform
def test_updates_unlike_the_parameters(name):
    words = f"{name} needs updates and params of the same structure", "got", "and"
    call = partial(update, TRANSFORMS[name](), updates={"w": PARAMS["w"]})
    refuses(ValueError, call, *words)


@every_transform
def test_a_loss_function_that_is_a_pytree_goes_through_jit(name):
    tx = TRANSFORMS[name]()

    @jax.jit
    def step(params, per_class_loss_fn):
        return update(tx, per_class_loss_fn, params=params)[0]

    wrapped = step(PARAMS, jax.tree_util.Partial(losses_of))
    assert jax.tree.structure(wrapped) == jax.tree.structure(PARAMS)


# --- parameters -----------------------------------------------------------------------


@every_call
def test_parameters_that_are_no_real_floats(call, monkeypatch):
    for extra, words in (
        (jnp.arange(3), "must be floats, got int32 at ['step']: split off the"),
        (jnp.ones(3, "complex64"), "must be real floats, got complex64 at ['step']"),
    ):
        monkeypatch.setitem(PARAMS, "step", extra)
        refuses(TypeError, call, words)


# --- masks ----------------------------------------------------------------------------


@every_call
@pytest.mark.parametrize("mask", [1, "w", {"w": jnp.array(True), "b": False}], ids=str)
def test_a_mask_of_anything_but_bools(call, mask):
    refuses(TypeError, lambda: call(mask=mask), "mask must have Python bools", "got")


@every_call
def test_a_mask_of_another_structure(call):
    for mask in ({"w": True}, lambda p: {"w": True}, {"w": [True], "b": True}):
        words = "mask must have the structure of the parameters", "prefix"
        refuses(ValueError, lambda mask=mask: call(mask=mask), *words)


@jax.tree_util.register_pytree_node_class
class Module(dict):
    """A callable tree, like a module of Equinox."""

    def tree_flatten(self):
        return tuple(self.values()), tuple(self)

    @classmethod
    def tree_unflatten(cls, names, values):
        return cls(zip(names, values, strict=True))

    def __call__(self, x):
        raise AssertionError("this is no function of the parameters")


@every_transform
def test_a_mask_may_be_a_tree_that_can_be_called(name):
    params, mask = Module(PARAMS), Module(w=True, b=False)
    make = TRANSFORMS[name]
    got, state = update(make(mask=mask), updates=params, params=params)
    want, same = update(make(mask={"w": True, "b": False}))
    jax.tree.map(np.testing.assert_array_equal, dict(got), want)
    assert state == same
