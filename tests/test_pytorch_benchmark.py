"""Tests of the benchmark in PyTorch: networks, cost counts, the authors' code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("tyro", reason="needs focal_sam_jax[experiments]")
torch = pytest.importorskip(
    "torch", reason="PyTorch is not installed: pip install 'focal_sam_jax[benchmark]'"
)

from rich.console import Console  # noqa: E402

from experiments.benchmark import __main__ as benchmark  # noqa: E402
from experiments.benchmark import epoch  # noqa: E402
from experiments.benchmark.torch.authors import authors_step  # noqa: E402
from experiments.benchmark.torch.epoch import torch_epoch  # noqa: E402
from experiments.benchmark.torch.images import Images  # noqa: E402
from experiments.benchmark.torch.memory import peak_bytes  # noqa: E402
from experiments.benchmark.torch.resnet import images_to_torch  # noqa: E402
from experiments.benchmark.torch.steps import (  # noqa: E402
    count_flops,
    method_step,
    torch_step,
)
from experiments.benchmark.torch.task import torch_device, torch_task  # noqa: E402
from experiments.benchmark.torch.vit import VisionTransformer  # noqa: E402
from experiments.benchmark.workload import METHODS, Workload  # noqa: E402
from experiments.errors import UserError  # noqa: E402
from experiments.models.clip.architecture import Transformer, Vision  # noqa: E402
from experiments.models.clip.classifier import (  # noqa: E402
    tuned_clip,
    vision_transformer,
)

pytestmark = pytest.mark.slow

SIZES = Vision(Transformer(width=16, layers=2, heads=2, hidden=24), 8, 4, channels=3)
CPU = torch.device("cpu")
TINY = Workload("vit_digits", 4, "float32")


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)  # more threads wait for each other on busy machines


def load(module, params):
    """Copies the parameters of JAX into the module; all have the same names."""
    named = dict(module.named_parameters())
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    for path, value in flat:
        *parts, last = [entry.key for entry in path]
        is_factor = last == "kernel" or (last == "scale" and value.ndim)
        name = ".".join([*parts, "weight" if is_factor else last])
        value = value.T if last == "kernel" else value
        with torch.no_grad():
            named.pop(name).copy_(torch.from_numpy(np.array(value)))
    assert not named


@pytest.mark.parametrize("trained", ["all", "adaptformer"])
def test_the_transformer_gives_the_same_logits_and_gradients(trained, x64):
    if trained == "all":
        model = vision_transformer(SIZES, 5)
    else:
        model = tuned_clip(
            SIZES,
            5,
            tuners=("adaptformer",),
            bottleneck=3,
            weights=None,
            head="linear",
            scale=1.0,
        )
    params, stats = model.init(jax.random.key(0))
    rng = np.random.default_rng(0)

    def noisy(leaf):  # initial zeros would hide mistakes
        return np.asarray(leaf, np.float64) + 0.1 * rng.normal(size=leaf.shape)

    params, frozen = jax.tree.map(noisy, (params, model.frozen))
    module = VisionTransformer(SIZES, 5, trained, bottleneck=3).double()
    merged = _merge(params, frozen)
    load(module, merged)
    images = rng.normal(size=(4, 8, 8, 3))
    given = model.given(frozen) if model.frozen else model

    def total(params):
        logits, _ = given.apply(params, stats, images, train=True)
        return jnp.sum(jnp.sin(logits)), logits

    (_, logits), gradient = jax.value_and_grad(total, has_aux=True)(params)
    theirs = module(images_to_torch(images))
    # JAX's attention takes its softmax in float32.
    np.testing.assert_allclose(theirs.detach(), logits, rtol=1e-5, atol=1e-6)
    theirs.sin().sum().backward()
    trained_names = {n for n, p in module.named_parameters() if p.requires_grad}
    assert len(trained_names) == len(jax.tree.leaves(gradient))
    norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(gradient)))
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    want = np.sqrt(sum(float((g**2).sum()) for g in grads))
    assert norm == pytest.approx(want, rel=1e-6)


def _merge(ours, others):
    """Two nested dicts as one."""
    merged = dict(ours)
    for name, value in others.items():
        inner = isinstance(value, dict)
        merged[name] = _merge(merged.get(name, {}), value) if inner else value
    return merged


@pytest.mark.parametrize("model", ["vit_digits", "resnet20"])
def test_both_frameworks_count_about_the_same_flops(model):
    from experiments.benchmark.jax_steps import jax_step

    workload = Workload(model, 2, "float32")
    ours = jax_step(workload, "sgd").costs["flops"]
    theirs = torch_step(workload, "sgd", compiled=False).costs["flops"]
    # JAX also counts other operations than products, and omits the padding.
    assert 0.8 < ours / theirs < 1.3


def test_flops_of_a_product_are_counted_exactly():
    a, b = torch.ones(64, 32), torch.ones(32, 16)
    assert count_flops(lambda: a @ b) == 2 * 64 * 32 * 16


def test_memory_at_its_worst_moment():
    kilobyte = 256

    def turn():
        first = torch.ones(3 * kilobyte)
        del first
        second = torch.ones(5 * kilobyte)
        third = torch.ones(4 * kilobyte)
        del second, third

    assert peak_bytes(turn, held=1000, device=CPU) == 1000 + 9 * 1024


def test_what_is_held_is_counted_once():
    task = torch_task(TINY, "sgd")
    parameters = sum(p.nbytes for p in task.module.parameters())
    batch = task.images.nbytes + task.labels.nbytes
    assert task.held_bytes == parameters + batch
    step = method_step(task)
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    step(task.module, task.optimizer, loss, task.images, task.labels)
    # Gradients and momenta were added.
    assert task.held_bytes == 3 * parameters + batch


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_method_makes_steps(method, dtype):
    contestant = torch_step(TINY._replace(dtype=dtype), method, compiled=False)
    contestant.run(2)
    assert contestant.costs["flops"] > 0 and contestant.costs["peak_bytes"] > 0


def test_a_gpu_that_pytorch_cannot_use_is_named(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(UserError, match="or pass --frameworks jax"):
        torch_device()


def test_the_command_puts_both_in_one_file(tmp_path):
    path = tmp_path / "r.json"
    job = benchmark.Job(
        model=("vit_digits",),
        batch_size=(4,),
        methods=("sgd", "focal_sam"),
        repeats=1,
        seconds=0.0,
        torch_repo=clone(tmp_path / "clone"),
        out=path,
    )
    benchmark.run(job, Console(quiet=True))
    table = path.with_suffix(".md").read_text()
    for framework in ("jax", "torch", "torch_authors"):
        assert f"| {framework} | focal_sam |" in table
    assert "patched while it runs: there is no GPU" in table
    assert f"torch {torch.__version__}" in table


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_has_all_steps(workers):
    data = epoch.synthetic(np.array([7, 5, 4]))
    workload = Workload("resnet20", 8, "float32")
    contestant = torch_epoch(workload, "sgd", data, compiled=False, workers=workers)
    assert contestant.costs["steps"] == 2
    contestant.run(1)


def test_images_are_cropped_flipped_and_normalised():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    mean, std = np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 4.0])
    images = Images(pixels, np.array([3]), mean, std)
    padded = np.pad(pixels[0], ((4, 4), (4, 4), (0, 0)))
    views = [
        (padded[top : top + 32, left : left + 32][:, ::flip] - mean) / std
        for top in range(9)
        for left in range(9)
        for flip in (1, -1)
    ]
    torch.manual_seed(0)
    seen = set()
    for _ in range(30):
        image, label = images[0]
        image = image.numpy().transpose(1, 2, 0)
        assert label == 3
        (which,) = [i for i, v in enumerate(views) if np.allclose(v, image, atol=1e-4)]
        seen.add(which)
    assert len(seen) > 10 and {which % 2 for which in seen} == {0, 1}


OPTIMIZER = """
import torch

class FocalSAM(torch.optim.Optimizer):
    def __init__(self, params, base_optimizer, rho, **kwargs):
        super().__init__(params, {"rho": rho, **kwargs})
        self.base = base_optimizer(self.param_groups, **kwargs)
"""
STEP = """
import torch
from utils import grad_norm

def focal_sam_step(args, model, criterion, inputs, targets, optimizer, cls_num_list):
    assert args.prec == "fp32" and args.flat_gamma > 0 and args.sharpness > 0
    optimizer.zero_grad()
    losses = criterion(model(inputs), targets)
    weights = torch.tensor(cls_num_list).cuda()[targets]
    (weights * losses).mean().backward()
    optimizer.base.step()
"""


def clone(folder, step=STEP, utils="import a_package_that_is_not_there"):
    """Writes a folder like the authors' repository."""
    folder.mkdir()
    (folder / "focal_sam.py").write_text(OPTIMIZER)
    (folder / "train_step.py").write_text(step)
    (folder / "utils.py").write_text(utils)
    return folder


def test_the_authors_step_runs_and_its_patches_are_named(tmp_path):
    contestant, patches = authors_step(TINY, clone(tmp_path / "a"))
    contestant.run(2)
    assert contestant.name["framework"] == "torch_authors"
    first, second = patches
    assert "utils.py cannot be imported (No module named" in first
    assert "tensor.cuda() does nothing" in second


def test_what_imports_is_not_patched(tmp_path):
    folder = clone(tmp_path / "a", utils="def grad_norm():\n    pass\n")
    _, patches = authors_step(TINY, folder)
    assert len(patches) == 1
    original = torch.Tensor.cuda
    with pytest.raises((AssertionError, RuntimeError)):
        original(torch.ones(1))  # the patch is gone


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no focal_sam.py and no train_step.py"):
        authors_step(TINY, tmp_path)
    other = clone(tmp_path / "a", step="from utils import *\n", utils="")
    with pytest.raises(UserError, match="is not the expected version"):
        authors_step(TINY, other)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised inside PyTorch
def test_a_compiled_step_runs_and_counts_as_an_eager_one():
    costs = {}
    for compiled in (False, True):
        contestant = torch_step(TINY, "focal_sam", compiled=compiled)
        contestant.run(1)
        costs[compiled] = contestant.costs
    assert costs[True]["flops"] == costs[False]["flops"]
    assert costs[True]["compile_s"] > costs[False]["compile_s"]
