"""One of several processes that train a small network together on a split batch."""

import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from commands import PATIENCE
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import focal_sam_jax as fsam

COUNTS = (40, 12, 3)
# In this order the first of two processes sees no example of the tail.
LABELS = np.array([0] * 6 + [1] * 2 + [0] * 3 + [1] * 3 + [2] * 2)
METHODS = {
    "focal_sam": partial(fsam.focal_sam, COUNTS, rho=0.3, gamma=2.0, lam=0.8),
    "cc_sam": partial(fsam.cc_sam, COUNTS, rho=0.3),
}
WAYS = ("jit", "shard_map")
STEPS = 3


def train(method, way, devices):
    """Returns the parameters after a few steps and the sharpness of the last step."""
    mesh = Mesh(np.array(devices), ("data",))
    axis_name = {"jit": None, "shard_map": "data"}[way]
    tx = optax.chain(METHODS[method](axis_name=axis_name), optax.sgd(0.2, momentum=0.9))

    def step(params, state, x, y):
        def per_class_loss(theta):
            logits = jnp.tanh(x @ theta["in"]) @ theta["out"]
            losses = fsam.losses.cross_entropy(logits, y)
            losses = fsam.per_class_losses(losses, y, len(COUNTS))
            return jax.lax.pmean(losses, axis_name) if axis_name else losses

        grads = jax.grad(lambda theta: per_class_loss(theta).sum())(params)
        updates, state = tx.update(
            grads, state, params, per_class_loss_fn=per_class_loss
        )
        return optax.apply_updates(params, updates), state

    if way == "shard_map":
        specs = {"in_specs": (P(), P(), P("data"), P("data")), "out_specs": P()}
        step = jax.shard_map(step, mesh=mesh, **specs)
    step = jax.jit(step)

    def place(tree, spec):
        def place_array(array):
            array, sharding = np.asarray(array), NamedSharding(mesh, spec)
            return jax.make_array_from_callback(
                array.shape, sharding, array.__getitem__
            )

        return jax.tree.map(place_array, tree)

    rng = np.random.default_rng(0)
    x = place(rng.normal(size=(LABELS.size, 8)).astype(np.float32), P("data"))
    y = place(LABELS, P("data"))
    shapes = {"in": (8, 6), "out": (6, len(COUNTS))}
    params = {k: rng.normal(size=shapes[k]).astype(np.float32) for k in shapes}
    state = place(tx.init(params), P())
    params = place(params, P())
    for _ in range(STEPS):
        # Collectives of two concurrent steps could run in different orders.
        params, state = jax.block_until_ready(step(params, state, x, y))
    result = params | {"sharpness": optax.tree.get(state, "sharpness")}
    return {k: np.asarray(v.addressable_data(0)) for k, v in result.items()}


def main(address, rank, processes, out):
    jax.distributed.initialize(
        address, processes, rank, initialization_timeout=PATIENCE
    )
    if len(jax.local_devices()) != 1 or len(jax.devices()) != processes:
        raise RuntimeError(f"wanted {processes} processes with a device each")
    results = {
        f"{method} {way} {name}": value
        for method in METHODS
        for way in WAYS
        for name, value in train(method, way, jax.devices()).items()
    }
    np.savez(out, **results)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
