"""Tests that one shared backward pass gives both gradients at lower cost."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reference as ref
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("flax", reason="needs focal_sam_jax[experiments]")

import focal_sam_jax as fsam
from experiments.config import Config
from experiments.configs import get_config
from experiments.models import make_model, resnet_cifar
from experiments.models.clip.architecture import Transformer, Vision
from experiments.models.clip.classifier import tuned_clip, vision_transformer
from experiments.training.step import init_state, make_train_step

COUNTS = np.array([60, 30, 8, 2])
CLASSES = len(COUNTS)
WEIGHTS = fsam.focal_weights(COUNTS, gamma=3.0)
LABELS = np.array([0, 0, 1, 0, 3, 2])
PIXELS = np.random.default_rng(7).normal(size=(6, 4, 4, 3))

apply = fsam.apply_per_example
engine = partial(fsam.sharpness_aware_value_and_grad, rho=0.3, lam=0.7)


def normalised(x, axes):
    mean, var = jnp.mean(x, axes, keepdims=True), jnp.var(x, axes, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(var + 1e-3)


def convolved(kernel, x):
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def scaled(theta, x):
    """Normalises two channel groups over the whole image, then scales."""
    groups = x.reshape(*x.shape[:3], 2, -1)
    x = normalised(groups, (1, 2, 4)).reshape(x.shape)
    return x * theta["scale"].reshape(1, 1, 1, -1) + theta["bias"].reshape(1, 1, 1, -1)


def logits(params, x):
    """Applies GroupNorm, a kernel used twice, LayerNorm, a head with frozen bias."""
    x = apply(convolved, params["in"], x)
    for _ in range(2):
        x = x + jnp.tanh(apply(convolved, params["twice"], apply(scaled, params, x)))
    x = normalised(jnp.mean(x, axis=(1, 2)), (1,))
    frozen = jnp.arange(4.0, dtype=x.dtype)
    return apply(
        lambda theta, x: x @ theta[0] + theta[1].reshape(1, -1),
        (params["out"], frozen),
        x,
    )


def per_class_loss(params, x, y):
    losses = fsam.losses.cross_entropy(logits(params, x), y)
    return fsam.per_class_losses(losses, y, CLASSES)


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {
        "in": (3, 3, 3, 4),
        "twice": (3, 3, 4, 4),
        "scale": (4,),
        "bias": (4,),
        "out": (4, 4),
    }
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def labels_of(params_and_x, y):
    del params_and_x
    return y


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)


def assert_same(got, want, tolerance=1e-6):
    assert ref.error(got, want) <= tolerance


# --- the same numbers -----------------------------------------------------------------


@jax.jit
def both_engines(params, x, y, weights):
    plain = engine(per_class_loss, weights)(params, x, y)
    shared = engine(per_class_loss, weights, per_example_labels=labels_of)
    return plain, shared(params, x, y)


@settings(deadline=None, max_examples=20)
@given(
    st.integers(0, 2**31),
    st.sampled_from([1, 5]).flatmap(
        lambda size: st.lists(st.integers(0, CLASSES - 1), min_size=size, max_size=size)
    ),
    st.lists(st.floats(0, 2, width=16), min_size=CLASSES, max_size=CLASSES),
)
def test_one_backward_gives_the_gradients_of_two(seed, labels, weights):
    x = np.random.default_rng(seed).normal(size=(len(labels), 4, 4, 3))
    with jax.enable_x64(True):
        (loss, want), (same_loss, got) = both_engines(
            parameters(seed), x, np.array(labels), np.array(weights)
        )
    assert loss == same_loss
    assert_same(got, want, 1e-12)


TRANSFORMS = {
    "focal_sam": partial(fsam.focal_sam, COUNTS, gamma=3.0, lam=0.7),
    "imbsam": partial(fsam.imbsam, COUNTS, tail_threshold=20),
    "sam": fsam.sam,
    "cc_sam": partial(fsam.cc_sam, COUNTS),
}
MASK = {"in": True, "twice": False, "scale": True, "bias": False, "out": True}


@pytest.mark.by_default(name=("focal_sam",))
@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("options", [{}, {"mask": MASK}, {"adaptive": True}], ids=str)
def test_a_transform_takes_the_promise_or_ignores_it(name, options):
    if name == "cc_sam" and "adaptive" in options:
        pytest.skip("CC-SAM has no adaptive form")
    tx = TRANSFORMS[name](rho=0.3, has_aux=True, **options)

    @jax.jit
    def step(params, x):
        def f(params):
            return per_class_loss(params, x, LABELS), {"aux": logits(params, x)}

        grads = jax.grad(lambda p: f(p)[0].sum())(params)
        update = partial(tx.update, grads, tx.init(params), params, per_class_loss_fn=f)
        return update(), update(per_example_labels=LABELS)

    (want, state), (got, same) = step(*cast((parameters(), PIXELS), jnp.float32))
    assert_same(got, want)
    np.testing.assert_allclose(same.info, state.info, rtol=1e-5)


@pytest.mark.slow
def test_aux_comes_from_the_clean_pass():
    def with_aux(params, x, y):
        return per_class_loss(params, x, y), logits(params, x)

    params, x = cast((parameters(), PIXELS), jnp.float32)
    fn = engine(with_aux, WEIGHTS, has_aux=True, per_example_labels=labels_of)
    (_, aux), _ = jax.jit(fn)(params, x, LABELS)
    np.testing.assert_allclose(aux, logits(params, x), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_bfloat16_rounds_no_more_than_twice():
    params, x = cast((parameters(), PIXELS), jnp.bfloat16)
    (_, want), (_, got) = both_engines(params, x, LABELS, WEIGHTS)
    assert {leaf.dtype for leaf in jax.tree.leaves(got)} == {jnp.dtype("bfloat16")}
    wide = both_engines(*cast((params, x), jnp.float32), LABELS, WEIGHTS)[0][1]
    assert ref.error(got, wide) <= 1.5 * ref.error(want, wide) + 0.01


def test_a_batch_may_be_padded_with_examples_of_no_class():
    real, padded = np.arange(6) < 4, np.where(np.arange(6) < 4, LABELS, -1)

    def f(params, x, y):
        losses = fsam.losses.cross_entropy(logits(params, x), y)
        return fsam.per_class_losses(losses, y, CLASSES, where=real)

    @jax.jit
    def both(*args):
        shared = engine(f, WEIGHTS, per_example_labels=lambda x, y: padded)
        return engine(f, WEIGHTS)(*args), shared(*args)

    args = cast((parameters(), PIXELS), jnp.float32)
    (_, want), (_, got) = both(*args, np.where(real, LABELS, 0))
    assert_same(got, want)


def test_with_ordinary_parameters_it_is_the_call():
    theta, x = {"w": jnp.ones((3, 2)), "n": 2}, (jnp.ones((4, 3)), jnp.arange(4))

    def f(theta, x):
        return theta["n"] * (x[0] @ theta["w"]), x[1]

    jax.tree.map(np.testing.assert_array_equal, apply(f, theta, x), f(theta, x))


@pytest.mark.slow
def test_integers_pass_beside_the_floats():
    def f(params, tokens, y):
        x, tokens = apply(lambda w, t: (w[t], t), params, tokens)
        x = x * (tokens > 0)[:, None]
        losses = fsam.losses.cross_entropy(x, y)
        return fsam.per_class_losses(losses, y, CLASSES)

    params, tokens = jnp.eye(5, CLASSES), np.array([4, 0, 2, 1, 1, 3])
    _, want = engine(f, WEIGHTS)(params, tokens, LABELS)
    _, got = engine(f, WEIGHTS, per_example_labels=labels_of)(params, tokens, LABELS)
    assert_same(got, want)


# --- vision transformers --------------------------------------------------------------

TINY = Vision(Transformer(16, 2, 4, 24), image_size=8, patch_size=4)
SMALL_MODULES = ["vpt_shallow", "vpt_deep", "adapter", "adaptformer", "lora"]
SMALL_MODULES += ["lora_mlp", "ssf_attention", "ssf_mlp", "ssf_layer_norm"]


def transformer(*tuners, sizes=TINY, bottleneck=2, head="cosine"):
    options = {"bottleneck": bottleneck, "weights": None, "head": head}
    return tuned_clip(sizes, CLASSES, tuners=tuners, **options)


def loss_of(model, x):
    def f(params, y, frozen):
        out, _ = model.given(frozen).apply(params, {}, x, train=True)
        losses = fsam.losses.cross_entropy(out, y)
        return fsam.per_class_losses(losses, y, CLASSES)

    return f


def labels_first(y, frozen):
    del frozen
    return y


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        partial(transformer, *SMALL_MODULES),
        partial(transformer, "adaptformer", head="linear"),
        partial(transformer, "bias", "layer_norm"),
        partial(transformer, "full"),
        partial(vision_transformer, TINY, CLASSES),
    ],
    ids=["small modules", "adaptformer", "bias, layer_norm", "full", "from scratch"],
)
def test_a_vision_transformer_gets_the_same_gradients(make):
    model = make()
    params, _ = model.init(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 200))
    # Move off zero, where products of two matrices have no gradient.
    params = jax.tree.map(
        lambda p: p + 0.1 * jax.random.normal(next(keys), p.shape), params
    )
    f = loss_of(model, jax.random.normal(jax.random.key(2), (6, 8, 8, 3)))

    @jax.jit
    def both(*args):
        shared = engine(f, WEIGHTS, per_example_labels=labels_first)
        return engine(f, WEIGHTS)(*args), shared(*args)

    (_, want), (_, got) = both(params, LABELS, model.frozen)
    assert_same(got, want)


# --- cost -----------------------------------------------------------------------------

FORMS = ["transform", "engine"]
MEDIUM = Vision(Transformer(128, 2, 4, 512), image_size=16, patch_size=4)
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@cache
def flops(tuner, method, form, shared):
    model = transformer(tuner, sizes=MEDIUM, bottleneck=8)
    f = loss_of(model, jnp.ones((8, 16, 16, 3)))
    labels = np.arange(8) % CLASSES
    tx = fsam.sam() if method == "sam" else fsam.focal_sam(COUNTS)
    weights = 1.0 if method == "sam" else WEIGHTS

    def by_transform(params, frozen):
        def loss(params):
            return f(params, labels, frozen)

        value, grads = jax.value_and_grad(lambda p: loss(p).sum())(params)
        promise = {"per_example_labels": labels} if shared else {}
        updates, _ = tx.update(
            grads, tx.init(params), params, per_class_loss_fn=loss, **promise
        )
        return value, updates

    def by_engine(params, frozen):
        promise = {"per_example_labels": labels_first} if shared else {}
        return engine(f, weights, **promise)(params, labels, frozen)

    step = by_transform if form == "transform" else by_engine
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    lowered = jax.jit(step).lower(params, model.frozen)
    return lowered.compile(compiler_options=FAST).cost_analysis()["flops"]


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("tuner", "limit", "unshared"), [("adaptformer", 1.04, 1.2), ("full", 1.18, 1.3)]
)
def test_a_step_computes_little_more_than_one_of_sam(form, tuner, limit, unshared):
    sam = flops(tuner, "sam", form, shared=False)
    assert flops(tuner, "focal_sam", form, shared=True) <= limit * sam
    assert flops(tuner, "focal_sam", form, shared=False) >= unshared * sam


# --- misuse ---------------------------------------------------------------------------


def misuse(f, labels=(0, 1, 2), x=None):
    x = jnp.ones((3, 2)) if x is None else x

    def per_class(w):
        losses = jnp.sum(f(w, x), axis=1)
        return fsam.per_class_losses(losses, jnp.array([0, 1, 2]), CLASSES)

    tx = fsam.focal_sam(COUNTS)
    w = jnp.ones((2, 4))
    labels = jnp.asarray(labels)
    tx.update(w, tx.init(w), w, per_class_loss_fn=per_class, per_example_labels=labels)


def dense(w, x):
    return x @ w


@pytest.mark.parametrize(
    "f",
    [
        dense,
        lambda w, x: apply(dense, w, x) + jnp.sum(w),
        lambda w, x: apply(dense, w, x) + jnp.sum(w**2),
        lambda w, x: apply(dense, w, x) + optax.tree.norm({"w": w}),
        lambda w, x: apply(dense, w, x) * w.size,
        lambda w, x: apply(dense, w[...], x),
        lambda w, x: apply(lambda _, x: x @ w, jnp.ones(()), x),
        lambda w, x: jax.jit(dense)(w, x),
        lambda w, x: jax.checkpoint(dense)(w, x),
        lambda w, x: jax.lax.scan(lambda x, w: (x * w[0], None), x, w)[0],
    ],
)
def test_a_parameter_used_elsewhere_is_an_error(f):
    with pytest.raises(ValueError, match="only through .*apply_per_example"):
        misuse(f)


def test_a_rematerialised_function_may_be_applied():
    misuse(partial(apply, jax.checkpoint(dense)))


@pytest.mark.parametrize(
    ("f", "what"),
    [
        (lambda w, x: apply(lambda w, x: x.T @ w, w, x.T), "inputs"),
        (lambda w, x: apply(lambda w, x: (x @ w)[None], w, x)[0], "outputs"),
        (lambda w, x: apply(lambda w, x: x[0] @ w, w, (x, jnp.ones(()))), "inputs"),
    ],
)
def test_the_examples_must_come_first(f, what):
    with pytest.raises(ValueError, match=f"the {what} of a function .* 3 examples"):
        misuse(f)


@pytest.mark.parametrize("labels", [1, [[0, 1, 2]], [0.0, 1.0, 2.0]])
def test_labels_are_class_ids(labels):
    with pytest.raises(ValueError, match=r"ints of shape \(batch,\)"):
        misuse(partial(apply, dense), labels)


# --- training -------------------------------------------------------------------------


@pytest.mark.slow
def test_only_networks_that_mix_no_examples_offer_it():
    def offers(recipe):
        return make_model(
            get_config(recipe, "focal_sam"), CLASSES, channels=1
        ).per_example

    assert offers("vit_digits_lt") and not offers("digits_lt")
    assert transformer("lora").given({}).per_example
    assert not resnet_cifar(20, CLASSES).per_example


@pytest.mark.parametrize("offers", [True, False])
def test_training_shares_where_the_network_allows(offers):
    seen = []

    def update(updates, state, params=None, *, evaluation, **extra):
        seen.append(evaluation.loss_fn.labels is not None)
        return updates, state

    tx = optax.GradientTransformationExtraArgs(lambda params: (), update)
    model = vision_transformer(TINY, CLASSES)._replace(per_example=offers)
    step = make_train_step(
        Config(),
        model,
        tx,
        lambda logits, labels, epoch: fsam.losses.cross_entropy(logits, labels),
        CLASSES,
        steps_per_epoch=5,
    )
    state = jax.eval_shape(
        lambda key: init_state(key, model, tx, ema=0.0), jax.random.key(0)
    )
    jax.eval_shape(step, state, {}, jnp.ones((6, 8, 8, 3)), jnp.asarray(LABELS))
    assert seen == [offers]


@pytest.mark.parametrize("compiled", [False, True])
def test_parameters_in_the_aux_are_arrays(compiled):
    params = {"w": jnp.ones((3, 2))}
    x, y = jnp.ones((4, 3)), jnp.array([0, 0, 1, 1])

    def aux_of(params):
        def loss_fn(params):
            logits = fsam.apply_per_example(lambda w, x: x @ w, params["w"], x)
            return fsam.losses.cross_entropy(logits, y), params

        options = {"labels": y, "num_classes": 2, "has_aux": True}
        return fsam.evaluate(loss_fn, params, per_example=True, **options).aux

    aux = (jax.jit(aux_of) if compiled else aux_of)(params)
    np.testing.assert_array_equal(aux["w"], params["w"])
