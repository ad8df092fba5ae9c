"""The networks give PyTorch's logits and running statistics, in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("flax", reason="needs focal_sam_jax[experiments]")
torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: pip install 'focal_sam_jax[benchmark]'"
)

from experiments.benchmark.torch import resnet_imagenet  # noqa: E402
from experiments.benchmark.torch.resnet import (  # noqa: E402
    ResNet,
    images_to_torch,
    numpy_state,
)
from experiments.errors import UserError  # noqa: E402
from experiments.models import (  # noqa: E402
    from_pytorch,
    resnet50,
    resnet_cifar,
    resnext50_32x4d,
    to_pytorch,
)

pytestmark = pytest.mark.slow

CLASSES = 7


# Our and PyTorch's network, and the image side, by name.
NETWORKS = {
    "resnet32": (
        lambda: resnet_cifar(32, CLASSES),
        lambda: ResNet(32, CLASSES),
        32,
    ),
    "resnet32, cosine": (
        lambda: resnet_cifar(32, CLASSES, head="cosine"),
        lambda: ResNet(32, CLASSES, head="cosine"),
        32,
    ),
    "resnet50": (
        lambda: resnet50(CLASSES),
        lambda: resnet_imagenet.ResNet(CLASSES),
        64,
    ),
    "resnet50, cosine": (
        lambda: resnet50(CLASSES, head="cosine"),
        lambda: resnet_imagenet.ResNet(CLASSES, head="cosine"),
        64,
    ),
    "resnext50": (
        lambda: resnext50_32x4d(CLASSES),
        lambda: resnet_imagenet.ResNet(CLASSES, groups=32, group_width=4),
        64,
    ),
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)  # more threads wait for each other on busy machines


def randomised(module):
    """Converts to float64 and draws BatchNorm weights, biases and statistics."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in module.double().state_dict().items():
        if name.endswith(("running_mean", "bias")):
            tensor.normal_(0, 0.2, generator=generator)
        elif (
            name.endswith("running_var") or name.endswith("weight") and tensor.ndim == 1
        ):
            tensor.uniform_(0.5, 1.5, generator=generator)
    return module


def error_of(ours, theirs):
    """The largest difference, relative to the largest value."""
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def assert_parity(name, model, module, torch_logits, to_state, side):
    """Compares evaluation, then training with its updated running statistics."""
    images = np.random.default_rng(0).normal(size=(2, side, side, 3))
    weights = jax.tree.map(jnp.asarray, from_pytorch(to_state(module), model))
    apply = jax.jit(model.apply, static_argnames="train")
    for train in (False, True):
        ours, batch_stats = apply(*weights, jnp.asarray(images), train=train)
        module.train(train)
        with torch.no_grad():
            theirs = torch_logits(module(images_to_torch(images))).numpy()
        _, stats_after = from_pytorch(to_state(module), model)
        pairs = zip(
            jax.tree.leaves(batch_stats), jax.tree.leaves(stats_after), strict=True
        )
        errors = error_of(ours, theirs), max(error_of(a, b) for a, b in pairs)
        mode = "training" if train else "evaluation"
        print(f"{name}, {mode}: logits {errors[0]:.1e}, statistics {errors[1]:.1e}")
        assert ours.dtype == np.float64 and np.ptp(theirs) > 0.01
        assert max(errors) <= 1e-9
    moved = jax.tree.map(error_of, weights[1], stats_after)
    assert min(jax.tree.leaves(moved)) > 1e-3  # training did change all of them


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_statistics_are_those_of_pytorch(name, x64):
    make_ours, make_theirs, side = NETWORKS[name]
    torch.manual_seed(0)
    module = randomised(make_theirs())
    assert_parity(name, make_ours(), module, lambda x: x, numpy_state, side)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_go_back_as_they_came(name):
    make_ours, make_theirs, _ = NETWORKS[name]
    state = numpy_state(randomised(make_theirs()))
    head = "fc" if "fc.weight" in state else "linear"
    back = to_pytorch(*from_pytorch(state, make_ours()), head)
    counted = {name for name in state if name.endswith("num_batches_tracked")}
    assert back.keys() == state.keys() - counted
    for array in back:
        np.testing.assert_array_equal(back[array], state[array])


# Packages that exported weights are for, if installed.
ELSEWHERE = {
    "torchvision": lambda package: package.models.resnet50(num_classes=CLASSES),
    "timm": lambda package: package.create_model("resnet50", num_classes=CLASSES),
}


@pytest.mark.parametrize("package", ELSEWHERE)
def test_other_programs_load_weights_with_equal_logits(package, x64):
    make_module = ELSEWHERE[package]
    module = make_module(pytest.importorskip(package)).double()
    model = resnet50(CLASSES)
    network = from_pytorch(numpy_state(randomised(resnet_imagenet.ResNet(7))), model)
    state = to_pytorch(*network, "fc")
    module.load_state_dict({n: torch.from_numpy(array) for n, array in state.items()})
    assert_parity(package, model, module, lambda x: x, numpy_state, 64)


# From the names of Hugging Face to those of torchvision, in this order.
RENAMES = [
    (r"resnet\.embedder\.embedder\.convolution", "conv1"),
    (r"resnet\.embedder\.embedder\.normalization", "bn1"),
    (r"resnet\.encoder\.stages\.(\d)\.layers\.", lambda m: f"layer{int(m[1]) + 1}."),
    (r"\.layer\.(\d)\.convolution", lambda m: f".conv{int(m[1]) + 1}"),
    (r"\.layer\.(\d)\.normalization", lambda m: f".bn{int(m[1]) + 1}"),
    (r"\.shortcut\.convolution", ".downsample.0"),
    (r"\.shortcut\.normalization", ".downsample.1"),
    (r"classifier\.1", "fc"),
]


def torchvision_names(module):
    state = {}
    for name, array in numpy_state(module).items():
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name)
        state[name] = array
    return state


def test_resnet50_is_that_of_hugging_face(x64):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ResNetConfig(num_labels=CLASSES)
    module = randomised(transformers.ResNetForImageClassification(config))
    assert_parity(
        "resnet50 of transformers",
        resnet50(CLASSES),
        module,
        lambda output: output.logits,
        torchvision_names,
        64,
    )


@pytest.mark.parametrize(
    ("module", "parameters"),
    [
        (lambda: resnet_imagenet.ResNet(1000), 25_557_032),
        (lambda: resnet_imagenet.ResNet(1000, 32, 4), 25_028_904),
    ],
    ids=["resnet50", "resnext50"],
)
def test_pytorch_networks_have_the_published_size(module, parameters):
    with torch.device("meta"):
        tensors = module()
    assert sum(p.numel() for p in tensors.parameters()) == parameters


@pytest.fixture(scope="module")
def small_state():
    return numpy_state(ResNet(20, CLASSES))


def test_weights_arrive_as_copies_of_their_dtype(small_state):
    state = {name: array.copy() for name, array in small_state.items()}
    params, batch_stats = from_pytorch(state, resnet_cifar(20, CLASSES))
    for array in state.values():
        array.fill(0)
    assert params["head"]["kernel"].std() > 0
    assert params["bn"]["scale"].min() == 1 and batch_stats["bn"]["var"].min() == 1
    assert {a.dtype for a in jax.tree.leaves((params, batch_stats))} == {
        np.dtype("float32")
    }


def test_either_name_of_the_last_layer_is_known(small_state):
    renamed = {k.replace("linear.", "fc."): v for k, v in small_state.items()}
    model = resnet_cifar(20, CLASSES)
    jax.tree.map(
        np.testing.assert_array_equal,
        from_pytorch(renamed, model),
        from_pytorch(small_state, model),
    )


def test_a_missing_array_is_named(small_state):
    state = dict(small_state)
    del state["layer2.1.bn2.running_var"]
    with pytest.raises(
        UserError, match=r"no layer2\.1\.bn2\.running_var, of .*\(32,\)"
    ):
        from_pytorch(state, resnet_cifar(20, CLASSES))


def test_an_array_of_another_shape_is_named(small_state):
    wanted = r"linear\.bias .* has shape \(7,\), but the network needs \(9,\)"
    with pytest.raises(UserError, match=wanted):
        from_pytorch(small_state, resnet_cifar(20, CLASSES + 2))


def test_an_array_too_many_is_named(small_state):
    state = numpy_state(ResNet(32, CLASSES))
    with pytest.raises(UserError, match=r"no array for layer1\.3\.conv1\.weight"):
        from_pytorch(state, resnet_cifar(20, CLASSES))


def test_a_linear_head_is_no_cosine_head(small_state):
    with pytest.raises(UserError, match=r"linear\.weight .* needs \(64, 7\)"):
        from_pytorch(small_state, resnet_cifar(20, CLASSES, head="cosine"))
