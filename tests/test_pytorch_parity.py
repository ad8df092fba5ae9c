"""Tests of twenty float64 steps in JAX and PyTorch, from the same weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import focal_sam_jax as fsam
from experiments.config import Config
from experiments.models import resnet_cifar
from experiments.training.step import init_state, make_train_step

torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: pip install 'focal_sam_jax[benchmark]'"
)

from experiments.benchmark.torch import reference, resnet  # noqa: E402

pytestmark = pytest.mark.slow

STEPS, BATCH, SIZE, CLASSES = 20, 8, 16, 5
RHO, GAMMA, LAM, TAIL, SWITCH = 0.05, 1.5, 0.7, 20, 12
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.02, 0.9, 5e-4
COUNTS = np.array([500, 180, 65, 14, 5])
# As fsam.cc_sam_radii has them: rho (min m / m_c)^(1/4) with m = n - 1.
RADII = torch.from_numpy(RHO * (4 / (COUNTS - 1)) ** 0.25)


def only_head(params):
    return {name: name == "head" for name in params}


# Functions, so that class weights are made in float64 and not when this is imported.
JAX_METHODS = {
    "sgd": lambda: optax.with_extra_args_support(optax.identity()),
    "sam": lambda: fsam.sam(rho=RHO),
    "imbsam": lambda: fsam.imbsam(COUNTS, rho=RHO, tail_threshold=TAIL),
    "focal_sam": lambda: fsam.focal_sam(COUNTS, rho=RHO, gamma=GAMMA, lam=LAM),
    "cc_sam": lambda: fsam.cc_sam(COUNTS, rho=RHO),
    "cc_sam_head": lambda: fsam.cc_sam(COUNTS, rho=RHO, mask=only_head),
    "sse_sam": lambda: fsam.sse_sam(
        COUNTS,
        head_rho=RHO,
        tail_rho=2 * RHO,
        tail_threshold=TAIL,
        switch_step=SWITCH,
    ),
}
TORCH_METHODS = {
    "sgd": (reference.sgd_step, {}),
    "sam": (reference.sam_step, {"rho": RHO}),
    "imbsam": (
        reference.focal_sam_step,
        {"rho": RHO, "coefficients": reference.tail_coefficients(COUNTS, TAIL)},
    ),
    "focal_sam": (
        reference.focal_sam_step,
        {"rho": RHO, "coefficients": reference.focal_coefficients(COUNTS, GAMMA, LAM)},
    ),
    "cc_sam": (reference.cc_sam_step, {"radii": RADII}),
    "cc_sam_head": (
        reference.cc_sam_step,
        {"radii": RADII, "perturbed": ("linear",)},
    ),
    "sse_sam": (
        reference.sse_sam_step,
        {"is_tail": torch.from_numpy(COUNTS < TAIL), "tail_rho": 2 * RHO},
    ),
}


def batches():
    rng = np.random.default_rng(0)
    labels = rng.choice(CLASSES, p=COUNTS / COUNTS.sum(), size=(STEPS, BATCH))
    images = rng.normal(size=(STEPS, BATCH, SIZE, SIZE, 3))
    return zip(images, labels, strict=True)


def train_in_pytorch(module, method):
    step, options = TORCH_METHODS[method]
    optimizer = torch.optim.SGD(
        module.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    for number, (images, labels) in enumerate(batches()):
        images = resnet.images_to_torch(images)
        labels = torch.from_numpy(labels)
        if method == "sse_sam":
            options["head_rho"] = RHO if number < SWITCH else 0.0
        step(module, optimizer, reference.cross_entropy, images, labels, **options)
    return resnet.to_jax(module)[0]


def loss(logits, labels, epoch):
    del epoch
    return fsam.losses.cross_entropy(logits, labels)


def depth(method):
    """Returns the published depth for Focal-SAM, a small one otherwise."""
    return 32 if method == "focal_sam" else 8


def train_in_jax(params, batch_stats, method):
    tx = optax.chain(
        JAX_METHODS[method](),
        optax.add_decayed_weights(WEIGHT_DECAY),
        optax.sgd(LEARNING_RATE, momentum=MOMENTUM),
    )
    model = resnet_cifar(depth(method), CLASSES)
    step = jax.jit(make_train_step(Config(), model, tx, loss, CLASSES, STEPS))
    state = init_state(jax.random.key(0), model, tx, ema=0.0)
    state = state._replace(
        params=params, batch_stats=batch_stats, opt_state=tx.init(params)
    )
    for images, labels in batches():
        state = step(state, {}, jnp.asarray(images), jnp.asarray(labels))
    assert state.skipped.total == 0
    return state.params


@pytest.mark.parametrize("method", JAX_METHODS)
def test_twenty_steps_end_at_the_same_weights(method, x64, as_users_compile):
    torch.manual_seed(0)
    torch.set_num_threads(1)  # more threads wait for each other on busy machines
    module = resnet.ResNet(depth(method), CLASSES).double()
    params, batch_stats = jax.tree.map(jnp.asarray, resnet.to_jax(module))
    ours = train_in_jax(params, batch_stats, method)
    theirs = train_in_pytorch(module, method)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    far = optax.tree.norm(optax.tree.sub(ours, params)) / optax.tree.norm(params)
    assert far > 0.01  # the weights changed
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)
    error = max(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs)
    print(f"{method}: relative error {error:.1e}, the largest over all arrays")
    assert error <= 1e-8


@pytest.mark.parametrize(("classes", "parameters"), [(10, 464_154), (100, 470_004)])
def test_both_networks_have_the_published_size(classes, parameters):
    theirs = resnet.ResNet(32, classes)
    ours, _ = jax.eval_shape(resnet_cifar(32, classes).init, jax.random.key(0))
    assert sum(p.numel() for p in theirs.parameters()) == parameters
    assert sum(p.size for p in jax.tree.leaves(ours)) == parameters
