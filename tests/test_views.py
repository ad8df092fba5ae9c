"""What of an image is judged, and the mean over several views."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("tyro", reason="needs focal_sam_jax[experiments]")

from experiments.configs import get_config
from experiments.data.resize import five_crops, resize
from experiments.data.views import judged_views
from experiments.errors import UserError
from experiments.models import Model, mean_over_views


def images(size, batch=3):
    return jax.random.normal(jax.random.key(0), (batch, size, size, 3))


def config(**changes):
    return get_config("cifar100_lt", "sgd").replace(**changes)


def test_images_are_judged_as_they_are():
    whole = images(32)
    np.testing.assert_array_equal(judged_views(config(), whole), whole[:, None])


def test_images_in_memory_are_resized_with_the_margin_asked_for():
    small = images(32)
    seen = judged_views(config(input_size=48), small)
    np.testing.assert_array_equal(seen[:, 0], resize(small, 48))
    seen = judged_views(config(input_size=48, test_resize=56), small)
    np.testing.assert_array_equal(seen[:, 0], resize(small, 56)[:, 4:52, 4:52])


@pytest.mark.parametrize("in_memory", [True, False])
def test_five_crops_are_cut_from_a_larger_image(in_memory):
    sizes = {"input_size": 48} if in_memory else {"image_size": 96}
    changed = config(five_crops=True, **sizes)
    stored = images(32) if in_memory else images(96 + 24)
    larger = resize(stored, 48 + 24) if in_memory else stored
    wanted = five_crops(larger, changed.network_size)
    views = judged_views(changed, stored)
    assert views.shape == (3, 5, changed.network_size, changed.network_size, 3)
    np.testing.assert_array_equal(jnp.moveaxis(views, 1, 0), wanted)


def test_logits_are_the_mean_over_the_views():
    def apply(params, batch_stats, images, *, train):
        return images.mean(axis=(1, 2)) ** 2 * params, batch_stats

    model = mean_over_views(Model(init=lambda key: (2.0, {}), apply=apply))
    views = jax.random.normal(jax.random.key(0), (4, 5, 6, 6, 3))
    logits, _ = jax.jit(lambda v: model.apply(2.0, {}, v, train=False))(views)
    wanted = (views.mean(axis=(2, 3)) ** 2 * 2).mean(axis=1)
    np.testing.assert_allclose(logits, wanted, rtol=1e-5)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="--test-resize must be at least the 48 pixels"):
        config(input_size=48, test_resize=40)
    with pytest.raises(UserError, match="--input-size must be at least 8, got 4"):
        config(input_size=4)
