"""Tests of the compiled FLOPs and memory of a training step, relative to SGD."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import focal_sam_jax as fsam
from experiments.configs import get_config
from experiments.models import make_model, resnet_cifar

FORWARD, BACKWARD = 1, 2
# In forward passes. All gradients at θ share one forward pass.
SGD = FORWARD + BACKWARD
SAM = 2 * FORWARD + 2 * BACKWARD
FOCAL_SAM = 2 * FORWARD + 3 * BACKWARD
# LLVM's optimisations take most of the time and change neither FLOPs nor memory.
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

METHODS = {
    "sgd": lambda counts: optax.with_extra_args_support(optax.identity()),
    "sam": lambda counts: fsam.sam(has_aux=True),
    "focal_sam": lambda counts: fsam.focal_sam(counts, has_aux=True),
    "cc_sam": lambda counts: fsam.cc_sam(counts, has_aux=True),
    "reuse_ascent as sam": lambda counts: fsam.reuse_ascent(rho=0.05, has_aux=True),
    "reuse_ascent as focal_sam": lambda counts: fsam.reuse_ascent(
        WEIGHTS["focal_sam"](counts), rho=0.05, lam=0.5, has_aux=True
    ),
    "looksam": lambda counts: fsam.looksam(fsam.focal_sam(counts, has_aux=True)),
    "sse_sam": lambda counts: fsam.sse_sam(
        counts, head_rho=0.05, tail_rho=0.1, tail_threshold=300, switch_step=9
    ),
}
WEIGHTS = {
    "sam": lambda counts: 1.0,
    "focal_sam": lambda counts: fsam.focal_weights(counts, gamma=1.0),
}
FORMS = ["transform", "evaluated", "engine"]


def train_step(method, form, loss_fn, num_classes):
    """Returns ``(step, init)``, for ``loss_fn(params, *batch) -> (losses, aux)``."""
    counts = 1000 // np.arange(1, num_classes + 1)
    momentum = optax.sgd(0.1, momentum=0.9)

    def with_transform(params, state, *batch):
        def mean_loss(params):
            losses, aux = loss_fn(params, *batch)
            return losses.sum(), aux

        (loss, aux), grads = jax.value_and_grad(mean_loss, has_aux=True)(params)
        updates, state = tx.update(
            grads, state, params, per_class_loss_fn=lambda p: loss_fn(p, *batch)
        )
        return optax.apply_updates(params, updates), state, loss, aux

    def with_evaluation(params, state, *batch):
        def of_batch(params):
            return loss_fn(params, *batch)

        here = fsam.evaluate(of_batch, params, has_aux=True)
        updates, state = tx.update(here.grads, state, params, evaluation=here)
        return optax.apply_updates(params, updates), state, here.loss, here.aux

    def with_engine(params, state, *batch):
        fn = fsam.sharpness_aware_value_and_grad(
            loss_fn, WEIGHTS[method](counts), rho=0.05, has_aux=True
        )
        (loss, aux), grads = fn(params, *batch)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss, aux

    if form == "engine":
        tx = momentum
        return with_engine, tx.init
    tx = optax.chain(METHODS[method](counts), momentum)
    step = {"transform": with_transform, "evaluated": with_evaluation}[form]
    return step, tx.init


def compiled(method, form, loss_fn, params, batch, num_classes=10):
    step, init = train_step(method, form, loss_fn, num_classes)
    lowered = jax.jit(step).lower(params, jax.eval_shape(init, params), *batch)
    return lowered.compile(compiler_options=FAST)


@cache
def resnet_step(method, form, depth=32, devices=1):
    model = resnet_cifar(depth=depth, num_classes=10)
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0))
    mesh = Mesh(np.array(jax.devices()[:devices]), ("data",))
    by_example = NamedSharding(mesh, PartitionSpec("data"))

    def loss_fn(params, batch_stats, images, labels):
        logits, batch_stats = model.apply(params, batch_stats, images, train=True)
        losses = fsam.losses.cross_entropy(logits, labels)
        return fsam.per_class_losses(losses, labels, 10), batch_stats

    images = jax.ShapeDtypeStruct((8, 32, 32, 3), jnp.float32, sharding=by_example)
    labels = jax.ShapeDtypeStruct((8,), jnp.int32, sharding=by_example)
    batch = (batch_stats, images, labels)
    return compiled(method, form, loss_fn, params, batch)


def flops_of(program):
    found = program.cost_analysis()["flops"]
    assert found > 0
    return found


def resnet_flops(method, form, **sizes):
    return flops_of(resnet_step(method, form, **sizes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "form", "limit"),
    [("sam", "evaluated", 2.05), *(("focal_sam", form, 2.70) for form in FORMS)],
)
def test_a_resnet_step_computes_no_more_than_promised(method, form, limit):
    assert resnet_flops(method, form) <= limit * resnet_flops("sgd", "transform")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "form", "limit"),
    [
        ("sam", "evaluated", 2.05),
        ("focal_sam", "evaluated", 2.70),
        ("focal_sam", "engine", 2.70),
        # XLA does not merge passes that contain BatchNorm's sums over devices.
        ("focal_sam", "transform", 3.05),
    ],
)
def test_a_resnet_step_on_eight_devices_computes_no_more_either(method, form, limit):
    sizes = {"depth": 20, "devices": 8}
    sgd = resnet_flops("sgd", "transform", **sizes)
    assert resnet_flops(method, form, **sizes) <= limit * sgd


# One backward pass less than the methods they approximate. The caller's gradient is
# unused, and XLA removes it.
REUSE_ASCENT = [("reuse_ascent as sam", 1.40), ("reuse_ascent as focal_sam", 2.05)]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "limit"), REUSE_ASCENT)
def test_a_resnet_step_that_reuses_the_ascent_is_cheaper(method, limit):
    sgd = resnet_flops("sgd", "transform")
    assert resnet_flops(method, "transform") <= limit * sgd


@pytest.mark.slow
def test_its_two_passes_are_not_in_memory_at_once():
    sgd = resnet_step("sgd", "transform")
    for method, _ in REUSE_ASCENT:
        assert _scratch(resnet_step(method, "transform")) <= 1.1 * _scratch(sgd)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "limit"), [("evaluated", 2.05), ("transform", 2.40)])
def test_a_forward_pass_that_is_not_recognised_is_a_third_one(form, limit):
    model = make_model(get_config("vit_digits_lt", "focal_sam"), 10, channels=1)
    params, _ = jax.eval_shape(model.init, jax.random.key(0))

    def loss_fn(params, images, labels):
        logits, _ = model.apply(params, {}, images, train=True)
        losses = fsam.losses.cross_entropy(logits, labels)
        return fsam.per_class_losses(losses, labels, 10), None

    images = jax.ShapeDtypeStruct((8, 8, 8, 1), jnp.float32)
    batch = (images, jax.ShapeDtypeStruct((8,), jnp.int32))
    ours, sgd = (
        flops_of(compiled(name, form, loss_fn, params, batch))
        for name in ("reuse_ascent as focal_sam", "sgd")
    )
    assert ours <= limit * sgd


@pytest.mark.parametrize(("method", "limit"), REUSE_ASCENT)
def test_a_step_that_reuses_the_ascent_is_cheaper(method, limit):
    assert flops(method, "transform") <= limit * flops("sgd", "transform")


# From JAX 0.10 on, the two backward passes at θ run one after the other: 1.14 times the
# memory of SGD. In older versions they run concurrently: 2.05 times.
FOCAL_SAM_MEMORY = 1.25 if jax.__version_info__ >= (0, 10) else 2.2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "form", "limit"),
    [
        ("sam", "evaluated", 1.15),
        ("focal_sam", "evaluated", FOCAL_SAM_MEMORY),
    ],
)
def test_a_resnet_step_needs_little_more_memory_than_sgd(method, form, limit):
    sgd, ours = resnet_step("sgd", "transform"), resnet_step(method, form)
    assert _scratch(ours) <= limit * _scratch(sgd)


def _scratch(program):
    found = program.memory_analysis().temp_size_in_bytes
    assert found > 0
    return found


@cache
def resnet_gradient(depth):
    """Returns a ResNet's compiled gradient, and the bytes of one array per layer."""
    batch, pixels, width = 32, 32 * 32, 16
    model = resnet_cifar(depth=depth, num_classes=10)
    params, batch_stats = jax.eval_shape(model.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((batch, 32, 32, 3), jnp.float32)

    @jax.jit
    @jax.grad
    def gradient(params, batch_stats, images):
        logits, _ = model.apply(params, batch_stats, images, train=True)
        return jnp.square(logits).sum()

    program = gradient.lower(params, batch_stats, images).compile(compiler_options=FAST)
    # Each stage has a third of the layers; its arrays are half the previous size.
    layers = (1 + 1 / 2 + 1 / 4) * (depth - 2) / 3
    return program, layers * batch * pixels * width * images.dtype.itemsize


@pytest.mark.slow
def test_a_resnet_holds_few_arrays_a_layer_for_its_backward_pass():
    """Each convolution stores its input and output, every second one a sum too.

    On CPU, the input is stored with permuted axes, but the sum after a block is not.
    Storing x - mean in BatchNorm would add one array per layer.
    """
    program, an_array_a_layer = resnet_gradient(depth=20)
    assert _scratch(program) <= 2.75 * an_array_a_layer


@pytest.mark.slow
@pytest.mark.parametrize("cost", ["flops", "bytes accessed"])
def test_a_block_costs_the_same_however_many_come_before(cost):
    """The cost would grow if XLA recomputed its input from all of them."""
    costs = [resnet_gradient(depth)[0].cost_analysis()[cost] for depth in (14, 20, 26)]
    first, second = np.diff(costs)
    np.testing.assert_allclose(second, first, rtol=1e-3)


@pytest.mark.slow
def test_the_state_has_no_copy_of_the_parameters():
    programs = [resnet_step(name, "transform") for name in ("sgd", "focal_sam")]
    sgd, ours = (p.memory_analysis().argument_size_in_bytes for p in programs)
    assert 0 < ours - sgd < 100


WIDTH, DEPTH, BATCH = 256, 4, 256
LAYERS = jax.ShapeDtypeStruct((DEPTH, WIDTH, WIDTH), jnp.float32)
DENSE_BATCH = (
    jax.ShapeDtypeStruct((BATCH, WIDTH), jnp.float32),
    jax.ShapeDtypeStruct((BATCH,), jnp.int32),
)


def dense(num_classes, scanned):
    """Makes a loss of equal layers, in a scan or unrolled."""

    def loss_fn(layers, x, y):
        unroll = 1 if scanned else DEPTH
        x, _ = jax.lax.scan(
            lambda h, w: (jnp.tanh(h @ w), None), x, layers, unroll=unroll
        )
        losses = fsam.losses.cross_entropy(x, y)
        return fsam.per_class_losses(losses, y, num_classes), None

    return loss_fn


def dense_step(method, form, num_classes=10, scanned=False):
    loss_fn = dense(num_classes, scanned)
    return compiled(method, form, loss_fn, LAYERS, DENSE_BATCH, num_classes)


def flops(*args, **kwargs):
    return flops_of(dense_step(*args, **kwargs))


def products(jaxpr):
    """Counts executed matrix products, those in a scan body once per iteration."""
    total = 0
    for equation in jaxpr.eqns:
        turns = equation.params["length"] if equation.primitive.name == "scan" else 1
        inner = jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr)
        total += equation.primitive.name == "dot_general"
        total += turns * sum(products(jaxpr) for jaxpr in inner if _is_jaxpr(jaxpr))
    return total


def _is_jaxpr(value):
    return hasattr(value, "eqns")


@pytest.mark.parametrize(
    ("method", "form", "cost"),
    [
        ("sgd", "transform", SGD),
        ("sam", "engine", SAM),
        ("focal_sam", "engine", FOCAL_SAM),
        ("sam", "evaluated", SAM),
        ("focal_sam", "evaluated", FOCAL_SAM),
        ("reuse_ascent as sam", "evaluated", SAM),
        # These trace the plain gradient twice, and rely on XLA to merge both.
        ("sam", "transform", SGD + SAM),
        ("focal_sam", "transform", SGD + FOCAL_SAM - BACKWARD),
    ],
)
def test_a_step_traces_these_products_in_a_scan_over_layers(method, form, cost):
    step, init = train_step(method, form, dense(10, scanned=True), num_classes=10)
    traced = jax.make_jaxpr(step)(LAYERS, jax.eval_shape(init, LAYERS), *DENSE_BATCH)
    assert products(traced) == cost * DEPTH


@pytest.mark.parametrize(
    ("form", "inside"),
    [("transform", FOCAL_SAM - BACKWARD), ("evaluated", FOCAL_SAM - SGD)],
)
def test_between_exact_steps_looksam_runs_the_plain_pass_alone(form, inside):
    step, init = train_step("looksam", form, dense(10, scanned=True), 10)
    traced = jax.make_jaxpr(step)(LAYERS, jax.eval_shape(init, LAYERS), *DENSE_BATCH)
    (cond,) = (e for e in traced.eqns if e.primitive.name == "cond")
    assert products(traced) - sum(map(products, cond.params["branches"])) == SGD * DEPTH
    # The branch taken where the predicate is false comes first.
    between, exact = map(products, cond.params["branches"])
    assert (between, exact) == (0, inside * DEPTH)


# XLA counts a loop body once for any number of iterations. It does so for all methods,
# so ratios are right. After jax.grad, XLA merges the two forward passes in both
# variants.
@pytest.mark.by_default(scanned=(True,))
@pytest.mark.parametrize("scanned", [True, False], ids=["scan", "written out"])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("method", "limit"), [("sam", 2.05), ("focal_sam", 2.70)])
def test_no_form_computes_more_than_promised(method, limit, form, scanned):
    sgd = flops("sgd", "transform", scanned=scanned)
    assert flops(method, form, scanned=scanned) <= limit * sgd


@pytest.mark.by_default(form=("evaluated",))
@pytest.mark.parametrize("form", FORMS)
def test_focal_sam_costs_the_same_for_many_classes(form):
    few, many = (flops("focal_sam", form, n) for n in (10, 100))
    assert many <= 1.01 * few


@pytest.mark.by_default(num_classes=(2,))
@pytest.mark.parametrize("num_classes", [2, 6])
def test_cc_sam_computes_two_backwards_and_a_forward_a_class(num_classes):
    a_class = FORWARD + 2 * BACKWARD
    wanted = (SGD + num_classes * a_class) / SGD * flops("sgd", "transform")
    assert flops("cc_sam", "transform", num_classes) <= 1.03 * wanted


@pytest.mark.slow
def test_cc_sams_loop_over_classes_needs_no_memory_for_a_class(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    few, many = (_scratch(dense_step("cc_sam", "transform", n)) for n in (4, 40))
    assert many <= 1.05 * few


def test_sse_sam_computes_a_pullback_a_forward_and_a_backward_for_two_groups():
    wanted = (SGD + 2 * (FORWARD + 2 * BACKWARD)) / SGD * flops("sgd", "transform")
    assert flops("sse_sam", "evaluated", 6) <= 1.03 * wanted


@pytest.mark.slow
def test_microbatches_save_memory_where_they_are_rematerialised():
    """Without ``jax.checkpoint`` every micro-batch keeps its activations."""
    of_a_part = dense(10, scanned=False)
    x, y = (leaf.update(shape=(4096, *leaf.shape[1:])) for leaf in DENSE_BATCH)

    def step(wrapped, params, x, y):
        in_parts = optax.microbatch(
            wrapped(lambda *args: of_a_part(*args)[0]),
            argnums=(1, 2),
            microbatch_size=256,
            accumulator=optax.microbatching.AccumulationType.MEAN,
        )
        here = fsam.evaluate(lambda p: in_parts(p, x, y), params)
        tx = fsam.focal_sam(np.arange(1, 11))
        return tx.update(here.grads, tx.init(params), params, evaluation=here)[0]

    def scratch(wrapped):
        lowered = jax.jit(partial(step, wrapped)).lower(LAYERS, x, y)
        return _scratch(lowered.compile(compiler_options=FAST))

    assert scratch(jax.checkpoint) < 0.35 * scratch(lambda f: f)


# Activations are now eight times as large as parameters.
WIDE_BATCH = (
    jax.ShapeDtypeStruct((8 * BATCH, WIDTH), jnp.float32),
    jax.ShapeDtypeStruct((8 * BATCH,), jnp.int32),
)


def wide_batch_scratch(method, num_classes):
    loss_fn = dense(num_classes, scanned=False)
    program = compiled(method, "transform", loss_fn, LAYERS, WIDE_BATCH, num_classes)
    return _scratch(program)


@pytest.mark.slow
def test_cc_sams_loop_makes_activations_anew_to_hold_less(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    sam = wide_batch_scratch("sam", 6)
    # The ratio would be 3.8 if activations at theta were kept for all classes, and 1.76
    # with a second backward pass at theta for the classes present.
    assert wide_batch_scratch("cc_sam", 6) <= 1.15 * sam


@pytest.mark.slow
def test_cc_sams_loop_holds_little_more_than_sam_and_a_gradient(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    sam, ours = (_scratch(dense_step(name, "transform")) for name in ("sam", "cc_sam"))
    a_gradient = LAYERS.size * LAYERS.dtype.itemsize
    assert ours <= sam + 1.3 * a_gradient


@pytest.mark.slow
def test_cc_sams_classes_written_out_are_not_in_memory_at_once():
    # Concurrent passes would need three times as much.
    few, many = (wide_batch_scratch("cc_sam", n) for n in (2, 6))
    assert many <= 1.3 * few


def test_passes_wait_for_all_parameters(monkeypatch):
    """Here the first parameters of the tree get their gradients first."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    layers = dense(6, scanned=False)
    params = {"head": LAYERS.update(shape=(1, WIDTH, WIDTH)), "layers": LAYERS}

    def loss_fn(params, x, y):
        return layers(jnp.concatenate([params["layers"], params["head"]]), x, y)

    sam, ours = (
        _scratch(compiled(method, "transform", loss_fn, params, WIDE_BATCH, 6))
        for method in ("sam", "cc_sam")
    )
    assert ours <= 1.15 * sam


@pytest.mark.parametrize("name", ["sam", "focal_sam"])
def test_split_parameters_need_no_more_sums_over_devices_than_by_hand(name):
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    weights = [
        jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=split) for _ in range(4)
    ]
    x = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=split)
    labels = np.arange(64) % 10
    counts = 1000 // np.arange(1, 11)
    s = {"sam": np.ones(10), "focal_sam": np.asarray(fsam.focal_weights(counts, 1.0))}

    def losses(weights, x):
        for w in weights:
            x = jnp.tanh(x @ w)
        return fsam.losses.cross_entropy(x[:, :10], labels)

    def ours(weights, x):
        here = fsam.evaluate(
            lambda w: losses(w, x), weights, labels=labels, num_classes=10
        )
        tx = fsam.sam(rho=0.1) if name == "sam" else fsam.focal_sam(counts, rho=0.1)
        return tx.update(here.grads, tx.init(weights), weights, evaluation=here)[0]

    def by_hand(weights, x):
        def weighted(w):
            return jnp.mean(s[name][labels] * losses(w, x))

        plain = jax.grad(lambda w: losses(w, x).mean())(weights)
        uphill = jax.grad(weighted)(weights)
        length = 0.1 / optax.tree.norm(uphill)
        there = jax.tree.map(lambda w, g: w + length * g, weights, uphill)
        return jax.tree.map(
            lambda p, a, b: p + 0.5 * (a - b), plain, jax.grad(weighted)(there), uphill
        )

    def sums(step):
        return jax.jit(step).lower(weights, x).compile().as_text().count(" all-reduce(")

    # The per-class losses in the state are summed over devices too.
    assert 0 < sums(ours) <= sums(by_hand) + 2
