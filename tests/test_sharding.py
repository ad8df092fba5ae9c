"""Tests of sharding: one device and eight devices."""

import jax
import numpy as np
import pytest

pytest.importorskip("flax", reason="needs focal_sam_jax[experiments]")

from tiny_runs import make, tiny, train

from experiments import devices
from experiments.errors import UserError


def trained(mesh, split_state=False):
    """A state after one epoch of Focal-SAM, the sums of its evaluation, its trainer."""
    config, dataset = tiny(width=16)
    trainer, feed, key = make(config, dataset, mesh=mesh, split_state=split_state)
    state = train(trainer, feed, key)
    return state, trainer.evaluate(state, feed.whole(dataset.test)), trainer


@pytest.fixture(scope="module")
def one():
    return trained(devices.device_mesh(1))


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "split"])
def eight(request):
    return trained(devices.device_mesh(8), request.param), request.param


@pytest.mark.slow
def test_eight_devices_are_one(one, eight):
    (state, sums, _), ((their_state, their_sums, _), _) = one, eight
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4),
        state.params,
        their_state.params,
    )
    np.testing.assert_allclose(sums.loss, their_sums.loss, rtol=1e-3)
    confusion, theirs = np.sum(sums.confusion), np.sum(their_sums.confusion)
    assert int(confusion) == int(theirs) == 500
    moved = np.abs(np.subtract(sums.confusion, their_sums.confusion)).sum()
    assert moved <= 10  # by rounding, at most five images are classified otherwise


@pytest.mark.slow
def test_a_split_state_is_split_and_stays_so(eight):
    (state, _, trainer), split = eight
    whole = on_one = 0
    for leaf, planned in zip(
        jax.tree.leaves(state), jax.tree.leaves(trainer.shapes), strict=True
    ):
        assert leaf.sharding.is_equivalent_to(planned.sharding, leaf.ndim)
        shard = leaf.addressable_shards[0].data
        whole, on_one = whole + leaf.size, on_one + shard.size
    assert on_one < 0.5 * whole if split else on_one == whole


def test_small_and_odd_arrays_stay_whole():
    mesh = devices.device_mesh(8)
    shapes = [(4, 4), (2**15 + 1,), (), (3, 2**14), (8, 2**14)]
    structs = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    layout = devices.of_state(structs, mesh, split=True)
    split = [not sharding_of_one.is_fully_replicated for sharding_of_one in layout]
    assert split == [False, False, False, True, True]


def test_a_batch_must_be_shared_evenly():
    with pytest.raises(UserError, match="--batch-size must be a multiple of the 8 dev"):
        devices.check_batch_size(30, devices.device_mesh(8))


@pytest.mark.parametrize("number", [0, 9])
def test_there_must_be_so_many_devices(number):
    with pytest.raises(UserError, match=f"--devices must be from 1 to .* got {number}"):
        devices.device_mesh(number)
