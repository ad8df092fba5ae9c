"""The networks: sizes, initial weights, BatchNorm, precision, purity."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax", reason="needs focal_sam_jax[experiments]")

from experiments.configs import get_config
from experiments.errors import UserError
from experiments.models import (
    make_model,
    resnet50,
    resnet_cifar,
    resnet_digits,
    resnext50_32x4d,
)
from experiments.models.layers import BatchNorm, relu_of_sum

FLOAT32 = {np.dtype("float32")}


def size_of(model):
    params, _ = jax.eval_shape(model.init, jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def dtypes(tree):
    return {leaf.dtype for leaf in jax.tree.leaves(tree)}


@pytest.fixture(scope="module")
def digits_net():
    model = resnet_digits(num_classes=10, width=4)
    return model, *jax.jit(model.init)(jax.random.key(0))


@pytest.mark.by_default(depth=(32,))
@pytest.mark.parametrize(
    ("depth", "classes", "head", "parameters"),
    [
        (20, 10, "linear", 269_722),
        (32, 10, "linear", 464_154),
        (32, 100, "linear", 470_004),
        (32, 10, "cosine", 464_144),
        (32, 100, "cosine", 469_904),
        (56, 10, "linear", 853_018),
        (110, 10, "linear", 1_727_962),
    ],
)
def test_published_sizes_for_cifar(depth, classes, head, parameters):
    assert size_of(resnet_cifar(depth, classes, head=head)) == parameters


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "classes", "parameters"),
    [
        (resnet50, 1000, 25_557_032),
        (resnet50, 8142, 40_190_990),
        (resnext50_32x4d, 1000, 25_028_904),
    ],
)
def test_published_sizes_for_imagenet(make, classes, parameters):
    assert size_of(make(classes)) == parameters
    without_bias = parameters - classes
    assert size_of(make(classes, head="cosine")) == without_bias


def test_a_depth_that_does_not_exist_is_explained():
    with pytest.raises(ValueError, match=r"6 k \+ 2 .* got 30"):
        resnet_cifar(30, 10)


def test_a_head_that_does_not_exist_is_explained():
    with pytest.raises(ValueError, match="'linear' or 'cosine', got 'cosin'"):
        resnet_digits(10, 4, head="cosin")


def test_initial_weights_follow_kaiming():
    @jax.jit
    def some_weights(key):
        params, _ = resnet_digits(num_classes=10, width=16).init(key)
        return params["stage2_block0"]["conv2"]["kernel"], params["head"]

    kernel, head = some_weights(jax.random.key(0))
    assert kernel.shape == (3, 3, 64, 64)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 64)), rtol=0.02)
    assert jnp.abs(kernel).max() > 3.5 * kernel.std()  # normal, not truncated
    np.testing.assert_allclose(head["kernel"].std(), 64**-0.5 * 2**0.5, 0.1)
    assert 0.01 < jnp.abs(head["bias"]).max() <= 1 / 8


def test_batch_norm_starts_as_the_identity(digits_net):
    _, params, batch_stats = digits_net
    norm = params["stage2_block0"]["bn2"] | batch_stats["stage2_block0"]["bn2"]
    assert {name: set(np.unique(array)) for name, array in norm.items()} == {
        "scale": {1.0},
        "bias": {0.0},
        "mean": {0.0},
        "var": {1.0},
    }


def test_initial_weights_of_resnet50_follow_torchvision():
    @jax.jit
    def some_weights(key):
        params, _ = resnet50(100).init(key)
        return params["stage2_block0"]["conv1"]["kernel"], params["head"]

    kernel, head = some_weights(jax.random.key(0))
    assert kernel.shape == (1, 1, 512, 256)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / 256), rtol=0.02)
    bound = 2048**-0.5
    assert 0.99 * bound < jnp.abs(head["kernel"]).max() <= bound
    assert 0.9 * bound < jnp.abs(head["bias"]).max() <= bound


def test_training_moves_the_statistics_by_a_tenth(digits_net):
    model, params, batch_stats = digits_net
    images = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    _, after = model.apply(params, batch_stats, images, train=True)
    assert jax.tree.structure(after) == jax.tree.structure(batch_stats)
    conv = jax.lax.conv_general_dilated(
        images,
        params["conv"]["kernel"],
        (1, 1),
        [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    mean, var = conv.mean(axis=(0, 1, 2)), conv.var(axis=(0, 1, 2), ddof=1)
    np.testing.assert_allclose(after["bn"]["mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after["bn"]["var"], 0.9 + 0.1 * var, rtol=1e-6)


def test_evaluation_returns_the_statistics_as_they_came(digits_net):
    model, params, batch_stats = digits_net
    images = jnp.ones((2, 8, 8, 1))
    logits, after = model.apply(params, batch_stats, images, train=False)
    assert logits.shape == (2, 10)
    jax.tree.map(np.testing.assert_array_equal, after, batch_stats)


@pytest.mark.slow
def test_in_evaluation_examples_do_not_mix(digits_net):
    model, params, batch_stats = digits_net
    images = jax.random.normal(jax.random.key(2), (5, 8, 8, 1))
    together, _ = model.apply(params, batch_stats, images, train=False)
    alone, _ = model.apply(params, batch_stats, images[:1], train=False)
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-5)


def test_trees_are_dicts_with_strings_for_keys(digits_net):
    for path, _ in jax.tree.leaves_with_path(digits_net[1:]):
        assert all(isinstance(entry.key, str) for entry in path[1:])


@pytest.mark.parametrize("channels", [1, 3])
def test_digits_take_grey_and_coloured_images(channels):
    model = resnet_digits(5, 2, channels=channels, head="cosine")
    weights = jax.eval_shape(model.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, 8, 8, channels), jnp.float32)
    logits, _ = jax.eval_shape(partial(model.apply, train=False), *weights, images)
    assert logits.shape == (2, 5)


def convolutions(function, *args):
    """Returns the input dtypes of each convolution in a function."""
    equations = jax.make_jaxpr(function)(*args).eqns
    return [
        {variable.aval.dtype for variable in equation.invars}
        for equation in equations
        if equation.primitive.name == "conv_general_dilated"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "dtype", "count"),
    [
        (partial(resnet_cifar, 20), "float32", 19),
        (partial(resnet_cifar, 20), "bfloat16", 19),
        (resnet50, "bfloat16", 53),
    ],
    ids=["resnet20-float32", "resnet20-bfloat16", "resnet50-bfloat16"],
)
def test_convolutions_run_in_the_precision_asked_for(make, dtype, count):
    model = make(10, dtype=jnp.dtype(dtype))
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)

    def loss(params, batch_stats, images):
        logits, after = model.apply(params, batch_stats, images, train=True)
        return logits.sum(), (logits, after)

    forward = convolutions(loss, params, batch_stats, images)
    assert forward == [{jnp.dtype(dtype)}] * count
    gradient = jax.grad(loss, has_aux=True)
    # Forward, kernel gradient, and input gradient except for the first.
    both = convolutions(gradient, params, batch_stats, images)
    assert both == [{jnp.dtype(dtype)}] * (3 * count - 1)
    grads, (logits, after) = jax.eval_shape(gradient, params, batch_stats, images)
    assert dtypes((params, batch_stats, grads, logits, after)) == FLOAT32


@pytest.mark.slow
@pytest.mark.parametrize(("head", "train"), [("linear", True), ("cosine", False)])
def test_logits_in_bfloat16_are_near_those_in_float32(digits_net, head, train):
    _, params, batch_stats = digits_net
    if head == "cosine":
        params = params | {"head": {"columns": params["head"]["kernel"]}}

    def run(dtype):
        model = resnet_digits(10, 4, head=head, dtype=dtype)
        apply = jax.jit(partial(model.apply, train=train))
        return apply(params, batch_stats, images)

    images = jax.random.normal(jax.random.key(1), (8, 8, 8, 1))
    logits, after = run(jnp.float32)
    narrow, narrow_after = run(jnp.bfloat16)
    assert dtypes((narrow, narrow_after)) == FLOAT32
    error = jnp.abs(narrow - logits).max() / jnp.abs(logits).max()
    assert 1e-5 < error < 0.05  # different, but close
    differences = jax.tree.map(lambda a, b: jnp.abs(a - b).max(), after, narrow_after)
    assert max(jax.tree.leaves(differences)) < 0.02


def test_batch_norm_at_bfloat16_subtracts_in_float32():
    norm = BatchNorm(1)
    norm.mean[...] = jnp.array([256.5])  # between two bfloat16 numbers
    norm.eval()
    x = jnp.full((1, 1, 1, 1), 256.0, jnp.bfloat16)
    y = norm(x)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(np.float32), -0.5, rtol=1e-2)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_block_ends_with_the_relu_of_a_sum(dtype):
    def of(end, *numbers):
        x = jnp.array(numbers, dtype)
        value, pullback = jax.vjp(end, x, jnp.zeros_like(x))
        return value, *pullback(jnp.full_like(x, 3.0))

    numbers = (-2.0, -0.0, 0.0, 1.0, np.inf, -np.inf)
    wanted = of(lambda x, y: jax.nn.relu(x + y), *numbers)
    for actual, desired in zip(of(relu_of_sum, *numbers), wanted, strict=True):
        assert actual.dtype == dtype
        np.testing.assert_array_equal(*(a.astype(float) for a in (actual, desired)))
    assert jnp.isnan(relu_of_sum(jnp.array(np.nan, dtype), 0))


@pytest.mark.parametrize("head", ["linear", "cosine"])
@pytest.mark.parametrize("train", [False, True])
def test_weights_in_float64_are_computed_with_in_float64(head, train, x64):
    model = resnet_digits(10, 2, head=head)
    weights = jax.eval_shape(model.init, jax.random.key(0))
    assert dtypes(weights) == FLOAT32
    wide = [jax.tree.map(lambda a: a.update(dtype=jnp.float64), t) for t in weights]
    images = jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.float64)
    after = jax.eval_shape(partial(model.apply, train=train), *wide, images)
    assert dtypes(after) == {np.dtype("float64")}


@pytest.mark.by_default(name=("resnet32", "resnext50"))
@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("resnet20", partial(resnet_cifar, 20)),
        ("resnet32", partial(resnet_cifar, 32)),
        ("resnet44", partial(resnet_cifar, 44)),
        ("resnet56", partial(resnet_cifar, 56)),
        ("resnet50", resnet50),
        ("resnext50", resnext50_32x4d),
    ],
)
def test_a_configuration_names_its_network(name, same):
    config = get_config("digits_lt", "sgd").replace(model=name, head="linear")
    key = jax.random.key(0)
    ours = jax.eval_shape(make_model(config, 10, 3).init, key)
    assert ours == jax.eval_shape(same(10).init, key)
    cosine = config.replace(head="cosine")
    params, _ = jax.eval_shape(make_model(cosine, 10, 3).init, key)
    assert set(params["head"]) == {"columns"}
    with pytest.raises(UserError, match=f"--model {name} .* 3 channels.* got 1"):
        make_model(config, 10, 1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_configuration_says_width_and_precision(precision):
    config = get_config("digits_lt", "sgd").replace(
        model="resnet_digits", head="linear", width=4, precision=precision
    )
    model = make_model(config, 10, 3)
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0))
    assert params["conv"]["kernel"].shape == (3, 3, 3, 4)
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.float32)
    evaluate = partial(model.apply, train=False)
    found = convolutions(evaluate, params, batch_stats, images)
    assert found == [{jnp.dtype(precision)}] * 7
