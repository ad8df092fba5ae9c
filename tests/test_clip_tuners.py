"""Tests of CLIP's tuners: parameter counts, where they act, what is frozen."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

from experiments.models.clip.architecture import (
    ARCHITECTURES,
    Transformer,
    Vision,
)
from experiments.models.clip.classifier import tuned_clip, vision_transformer
from experiments.models.clip.towers import TextTower, VisionTower
from experiments.models.clip.tuners import (
    Adapter,
    AdaptFormer,
    Lora,
    Prompts,
    Ssf,
    bottleneck,
    is_tuned,
    make_tuners,
)

CLASSES = (10, 100, 1000, 8142)
# Parameters in the published code, for CLIP ViT-B/16 and those class numbers.
SIZES = {
    "adaptformer": (46_104, 101_436, 617_868, 4_749_324),
    "adapter": (46_092, 101_424, 617_856, 4_749_312),
    "lora": (36_864, 147_456, 1_179_648, 9_437_184),
    "vpt_shallow": (7_680,) * 4,
    "vpt_deep": (92_160,) * 4,
    "bias": (101_376,) * 4,
    "layer_norm": (36_864,) * 4,
    "full": (85_054_464,) * 4,
    "ssf_attention": (73_728,) * 4,
    "ssf_mlp": (92_160,) * 4,
    "ssf_layer_norm": (36_864,) * 4,
}
TUNERS = (*SIZES, "lora_mlp")
SMALL = Vision(Transformer(16, 2, 4, 24), image_size=8, patch_size=4)


def size(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def shapes_of(make_module):
    return nnx.to_pure_dict(nnx.state(nnx.eval_shape(make_module), nnx.Param))


@pytest.mark.by_default(name=("ViT-B/16",))
@pytest.mark.parametrize(
    ("name", "visual", "rest"),
    [
        ("ViT-B/16", 86_192_640, 63_428_097),
        ("ViT-B/32", 87_849_216, 63_428_097),
        ("ViT-L/14", 303_966_208, 123_650_305),
        ("ViT-L/14@336", 304_293_888, 123_650_305),
    ],
)
def test_the_towers_have_as_many_parameters_as_published(name, visual, rest):
    architecture = ARCHITECTURES[name]
    embedding = architecture.embedding
    vision, text = architecture.vision, architecture.text
    images = shapes_of(lambda: VisionTower(vision, jnp.float32, nnx.Rngs(0)))
    texts = shapes_of(lambda: TextTower(text, jnp.float32, nnx.Rngs(0)))
    assert size(images) + vision.transformer.width * embedding == visual
    # Plus the scale of the cosines.
    assert size(texts) + text.transformer.width * embedding + 1 == rest


def test_the_bottleneck_grows_with_the_classes():
    assert [bottleneck(n, 12) for n in (2, *CLASSES)] == [1, 1, 4, 32, 256]
    assert bottleneck(365, 12) == 8


@pytest.mark.by_default(tuner=("adaptformer", "lora", "ssf_mlp"), which=(1,))
@pytest.mark.parametrize(
    ("tuner", "which"),
    [(t, i) for t, of in SIZES.items() for i in (range(4) if len({*of}) > 1 else [1])],
)
def test_tuners_have_as_many_parameters_as_published(tuner, which):
    sizes, d = ARCHITECTURES["ViT-B/16"].vision, bottleneck(CLASSES[which], 12)

    def make_module():
        rngs = nnx.Rngs(0)
        modules = make_tuners([tuner], sizes, d, jnp.float32, rngs)
        return VisionTower(sizes, jnp.float32, rngs, modules)

    tuned = {
        path: leaf
        for path, leaf in flatten_dict(shapes_of(make_module)).items()
        if is_tuned([tuner], path)
    }
    assert size(tuned) == SIZES[tuner][which]


def network(*tuners, dtype=jnp.float32, **options):
    options = {"bottleneck": 2, "weights": None, **options}
    return tuned_clip(SMALL, 3, tuners=tuners, dtype=dtype, **options)


def images(seed=0):
    return jax.random.normal(jax.random.key(seed), (5, 8, 8, 3))


def logits_of(model, params):
    return jax.jit(lambda p: model.apply(p, {}, images(), train=True)[0])(params)


@pytest.mark.by_default(tuner=("adaptformer",))
@pytest.mark.parametrize("tuner", ["adaptformer", "bias", "full"])
def test_trained_and_frozen_are_two_trees_with_everything_once(tuner):
    model = network(tuner)
    params, batch_stats = model.init(jax.random.key(0))
    trained, frozen = flatten_dict(params), flatten_dict(model.frozen)
    assert not trained.keys() & frozen.keys()
    assert not batch_stats
    assert ("head", "columns") in trained
    assert all(path[0] == "vision" for path in frozen)
    whole = vision_transformer(SMALL, 3, head="cosine").init(jax.random.key(0))[0]
    assert trained.keys() | frozen.keys() >= flatten_dict(whole).keys()


@pytest.mark.slow
@pytest.mark.parametrize(
    "tuners",
    [
        [tuner for tuner in TUNERS if tuner not in ("full", "vpt_shallow")],
        ["full"],
        ["vpt_shallow"],  # vpt_deep replaces its tokens.
    ],
    ids=["most together", "full", "vpt_shallow"],
)
def test_every_trained_parameter_changes_something(tuners):
    model = network(*tuners)
    params, _ = model.init(jax.random.key(0))
    # Move off zero, where a product of two matrices has no gradient for one of them.
    keys = iter(jax.random.split(jax.random.key(1), 100))
    params = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(next(keys), x.shape), params
    )

    def loss(params):
        return jnp.sum(jnp.sin(model.apply(params, {}, images(), train=True)[0]))

    grads = flatten_dict(jax.jit(jax.grad(loss))(params))
    assert not {path for path, grad in grads.items() if not np.any(grad)}


def test_a_probe_trains_the_last_layer_alone():
    params, _ = network().init(jax.random.key(0))
    assert params.keys() == {"head"}


@pytest.mark.parametrize(
    "tuners", [["adapter", "adaptformer", "lora", "lora_mlp"], ["full"]]
)
def test_training_starts_from_the_untuned_network(tuners):
    weights = vision_transformer(SMALL, 3).init(jax.random.key(7))[0]["vision"]
    probe, tuned = network(weights=weights), network(*tuners, weights=weights)
    head, _ = probe.init(jax.random.key(0))
    params, _ = tuned.init(jax.random.key(5))
    before = logits_of(probe, head)
    after = logits_of(tuned, params | head)
    np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_frozen_factors_are_as_narrow_as_the_computation():
    model = network("adaptformer", dtype=jnp.bfloat16)
    for path, array in flatten_dict(model.frozen).items():
        wanted = jnp.bfloat16 if path[-1] == "kernel" else jnp.float32
        assert array.dtype == wanted, path
    params, _ = model.init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    wide = network("adaptformer")
    np.testing.assert_allclose(
        logits_of(model, params), logits_of(wide, params), atol=0.5
    )


def test_weights_are_taken_where_given():
    drawn = vision_transformer(SMALL, 3).init(jax.random.key(7))[0]["vision"]
    model = network("adaptformer", weights=drawn)
    np.testing.assert_array_equal(
        model.frozen["vision"]["block1"]["fc1"]["kernel"],
        drawn["block1"]["fc1"]["kernel"],
    )


def test_frozen_weights_can_be_given_as_arguments():
    model = network("lora")
    params, _ = model.init(jax.random.key(0))
    zeros = jax.tree.map(np.zeros_like, model.frozen)
    changed = logits_of(model.given(zeros), params)
    assert not np.allclose(changed, logits_of(model, params))


# Each tuner against its docstring's equations, in NumPy.


def numbers(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def norm(x, eps=1e-5):
    x = np.asarray(x, np.float64)
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + eps)


def adapted(module, x):
    down = norm(x) @ np.asarray(module.down.kernel[...]) + module.down.bias[...]
    return np.maximum(down, 0) @ np.asarray(module.up.kernel[...]) + module.up.bias[...]


@pytest.mark.parametrize("cls", [Adapter, AdaptFormer])
def test_adapters_add_a_bottleneck(cls):
    with jax.numpy_rank_promotion("allow"):
        module = cls(6, 2, jnp.float32, nnx.Rngs(0))
        module.up.kernel[...] = numbers(2, 6, seed=1)
        module.down.bias[...] = numbers(2, seed=2)
        x, y = numbers(3, 4, 6, seed=3), numbers(3, 4, 6, seed=4)
        if cls is Adapter:
            wanted = y + adapted(module, y)
        else:
            module.scale[...] = jnp.float32(0.3)
            wanted = y + 0.3 * adapted(module, x)
        np.testing.assert_allclose(module(x, y), wanted, rtol=1e-4, atol=1e-4)


def test_lora_adds_to_queries_and_values():
    module = Lora(6, 15, 2, jnp.float32, nnx.Rngs(0), parts=3, tuned=(0, 2))
    module.b[...] = numbers(2, 2, 5)
    x, y = numbers(3, 4, 6, seed=3), numbers(3, 4, 15, seed=4)
    a, b = np.asarray(module.a[...]), np.asarray(module.b[...])
    wanted = np.array(y)
    wanted[..., :5] += x @ a[0] @ b[0] / 2
    wanted[..., 10:] += x @ a[1] @ b[1] / 2
    np.testing.assert_allclose(module(x, y), wanted, rtol=1e-4, atol=1e-4)
    assert np.abs(a).max() <= 2**-0.5 < np.abs(a).max() * 1.3


@pytest.mark.parametrize("kind", ["lora", "ssf"])
def test_merging_gives_the_layer_that_does_both(kind):
    kernel, bias = numbers(6, 8), numbers(8, seed=1)
    x = numbers(3, 4, 6, seed=2)
    if kind == "lora":
        module = Lora(6, 8, 2, jnp.float32, nnx.Rngs(0))
        module.b[...] = numbers(1, 2, 8, seed=3)
    else:
        module = Ssf(8, nnx.Rngs(0))
    tuned = module(x, x @ kernel + bias[None, None])
    kernel, bias = module.merge(kernel, bias)
    np.testing.assert_allclose(tuned, x @ kernel + bias[None, None], atol=1e-4)


def test_prompts_come_behind_and_replace_earlier_ones():
    module = Prompts(SMALL, nnx.Rngs(0))
    y = numbers(2, SMALL.tokens, 16)
    once = module(y, y)
    assert once.shape == (2, SMALL.tokens + 10, 16)
    np.testing.assert_array_equal(once[:, : SMALL.tokens], y)
    np.testing.assert_array_equal(once[0, SMALL.tokens :], module.tokens[...])
    np.testing.assert_array_equal(module(once, once), once)
    assert np.abs(module.tokens[...]).max() <= math.sqrt(6 / (3 * 16 + 16))
