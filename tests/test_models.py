"""The networks: sizes, initial weights, BatchNorm statistics, purity."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax", reason="needs focal_sam_jax[experiments]")

from experiments.models import resnet_cifar, resnet_digits


@pytest.fixture(scope="module")
def digits_net():
    model = resnet_digits(num_classes=10, width=4)
    return model, *jax.jit(model.init)(jax.random.key(0))


@pytest.mark.parametrize(
    ("depth", "classes", "parameters"),
    [(20, 10, 269_722), (32, 10, 464_154), (32, 100, 470_004), (56, 10, 853_018)],
)
def test_published_sizes(depth, classes, parameters):
    params, _ = jax.eval_shape(resnet_cifar(depth, classes).init, jax.random.key(0))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


def test_a_depth_that_does_not_exist_is_explained():
    with pytest.raises(ValueError, match=r"6 k \+ 2 .* got 30"):
        resnet_cifar(30, 10)


def test_initial_weights_follow_kaiming():
    model = resnet_digits(num_classes=10, width=16)
    params, batch_stats = jax.jit(model.init)(jax.random.key(0))
    kernel = params["stage2_block0"]["conv2"]["kernel"]
    assert kernel.shape == (3, 3, 64, 64)
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 64)), rtol=0.02)
    assert jnp.abs(kernel).max() > 3.5 * kernel.std()  # normal, not truncated
    np.testing.assert_allclose(params["head"]["kernel"].std(), 64**-0.5 * 2**0.5, 0.1)
    assert 0.01 < jnp.abs(params["head"]["bias"]).max() <= 1 / 8
    assert set(np.unique(params["bn"]["scale"])) == {1.0}
    assert set(np.unique(batch_stats["bn"]["var"])) == {1.0}


def test_training_moves_the_statistics_by_a_tenth(digits_net):
    model, params, batch_stats = digits_net
    images = jax.random.normal(jax.random.key(1), (16, 8, 8, 1))
    _, after = model.apply(params, batch_stats, images, train=True)
    assert jax.tree.structure(after) == jax.tree.structure(batch_stats)
    conv = jax.lax.conv_general_dilated(
        images,
        params["conv"]["kernel"],
        (1, 1),
        [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    mean = conv.mean(axis=(0, 1, 2))
    np.testing.assert_allclose(after["bn"]["mean"], 0.1 * mean, rtol=1e-4, atol=1e-6)


def test_evaluation_returns_the_statistics_as_they_came(digits_net):
    model, params, batch_stats = digits_net
    images = jnp.ones((2, 8, 8, 1))
    logits, after = model.apply(params, batch_stats, images, train=False)
    assert logits.shape == (2, 10)
    jax.tree.map(np.testing.assert_array_equal, after, batch_stats)


def test_in_evaluation_examples_do_not_mix(digits_net):
    model, params, batch_stats = digits_net
    images = jax.random.normal(jax.random.key(2), (5, 8, 8, 1))
    together, _ = model.apply(params, batch_stats, images, train=False)
    alone, _ = model.apply(params, batch_stats, images[:1], train=False)
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-5)


def test_trees_are_dicts_with_strings_for_keys(digits_net):
    for path, _ in jax.tree.leaves_with_path(digits_net[1:]):
        assert all(isinstance(entry.key, str) for entry in path[1:])
