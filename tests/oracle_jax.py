"""The oracle's network in JAX, and the methods beside those of the oracle."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference as ref
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import focal_sam_jax as fsam

FULL = ref.parameters()
PARAMS = jax.tree.map(jnp.float32, FULL)
HEAD_ONLY = {
    layer: ref.tree_map(lambda p, layer=layer: layer == "head", FULL[layer])
    for layer in FULL
}
DTYPES = [jnp.bfloat16, jnp.float16, jnp.float32]


def each_in_a_dtype(names, one="focal_sam"):
    """All names in bfloat16, and one of them in every dtype."""
    pairs = [(name, jnp.bfloat16) for name in names if name != one]
    pairs += [(one, dtype) for dtype in DTYPES]
    ids = [f"{name}-{dtype.__name__}" for name, dtype in pairs]
    return pytest.mark.parametrize(("name", "dtype"), pairs, ids=ids)


in_both_precisions = pytest.mark.parametrize(
    ("x64", "tolerance"), [(False, 1e-5), (True, 1e-12)], ids=["fp32", "x64"]
)
few_examples = settings(deadline=None, max_examples=25)
some_seed = st.integers(0, 2**31)
some_labels = arrays(np.int32, len(ref.Y), elements=st.integers(0, ref.CLASSES - 1))
some_params = arrays(np.float64, 44, elements=st.floats(-1, 1, width=32)).map(
    lambda v: jax.flatten_util.ravel_pytree(FULL)[1](np.asarray(v, np.float32))
)


def per_class_loss(params, x=ref.X, y=ref.Y, *, ids=None, classes=ref.CLASSES):
    """The losses L_c of a batch; ``ids`` renames the classes."""
    losses = ref.example_losses(params, x, y, xp=jnp)
    return fsam.per_class_losses(losses, y if ids is None else ids, classes)


def one_by_one(y=ref.Y):
    """Returns a list of functions, one per class."""
    return [lambda p, c=c: per_class_loss(p, y=y)[c] for c in range(ref.CLASSES)]


def plain(params, f=per_class_loss):
    """The loss and its gradient."""
    return jax.value_and_grad(lambda p: f(p).sum())(params)


def gradient(f, params):
    return plain(params, f)[1]


def update(tx, params, f=per_class_loss, **extra):
    """One update with the plain gradient."""
    grads = gradient(f, params)
    return tx.update(grads, tx.init(params), params, per_class_loss_fn=f, **extra)


def to_jax(tree):
    return jax.tree.map(jnp.asarray, tree)


def assert_same(got, want, rtol=1e-5):
    assert ref.error(got, want) <= rtol


# --- methods --------------------------------------------------------------------------

ANY_WEIGHTS = np.array([0.3, -0.2, 1.5, 0.0])
GROUPS = np.array([[0.0, 1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0]])


def any_weights(params, rho, **options):
    """Computes the other form: 1 - 0.7 w_c unperturbed, 0.7 w_c perturbed."""
    before, uphill = ref.weighted(params, ANY_WEIGHTS)
    epsilon, norm = ref.ascent(params, uphill, rho, **options)
    after, climbed = ref.weighted(ref.add(params, epsilon), ANY_WEIGHTS)
    _, home = ref.weighted(params, 1 - 0.7 * ANY_WEIGHTS)
    return ref.Step(ref.add(home, climbed, 0.7), norm, after - before)


MAKERS = {
    "sam": (fsam.sam, ref.sam),
    "imbsam": (
        partial(fsam.imbsam, ref.COUNTS, tail_threshold=25),
        partial(ref.imbsam, counts=ref.COUNTS, tail_threshold=25),
    ),
    "focal_sam": (
        partial(fsam.focal_sam, ref.COUNTS, gamma=2.5, lam=0.8),
        partial(ref.focal_sam, counts=ref.COUNTS, gamma=2.5, lam=0.8),
    ),
    "cc_sam": (
        partial(fsam.cc_sam, ref.COUNTS, alpha=0.6),
        partial(ref.cc_sam, counts=ref.COUNTS, alpha=0.6),
    ),
    "sse_sam": (
        lambda rho, **options: fsam.sse_sam(
            ref.COUNTS,
            head_rho=rho,
            tail_rho=0.4,
            tail_threshold=25,
            switch_step=100,
            **options,
        ),
        lambda rho, **options: ref.sse_sam(
            counts=ref.COUNTS,
            head_rho=rho,
            tail_rho=0.4,
            tail_threshold=25,
            **options,
        ),
    ),
    "sharpness_aware": (
        partial(fsam.sharpness_aware, ANY_WEIGHTS, lam=0.7),
        lambda params, rho, **options: any_weights(params, rho, **options),
    ),
    "class_conditional": (
        lambda rho, **options: fsam.class_conditional(
            (lambda count: jnp.array([1.0, 2.0, 0.5]) * rho(count))
            if callable(rho)
            else jnp.array([1.0, 2.0, 0.5]) * rho,
            groups=[2, 0, 1, 0],
            alpha=0.6,
            **options,
        ),
        lambda params, rho, mask=None: ref.in_balls(
            params, GROUPS, [rho, 2 * rho, rho / 2], 0.6, mask, ref.X, ref.Y
        ),
    ),
}
