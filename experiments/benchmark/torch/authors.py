"""The training step of the published Focal-SAM code, from the user's own copy.

Nothing of it is kept here. Its files are loaded as they are. If this module replaces
something that would not run, it describes the patch in words.
"""

import importlib.util
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

from experiments.benchmark.contestant import Contestant
from experiments.benchmark.torch import reference
from experiments.benchmark.torch.steps import count_flops, measured
from experiments.benchmark.torch.task import torch_task
from experiments.benchmark.workload import Workload
from experiments.errors import UserError

_FILES = ("focal_sam.py", "train_step.py")


def authors_step(workload: Workload, repo: Path) -> tuple[Contestant, list[str]]:
    """Returns the Focal-SAM step of ``repo``, and the patches it needs to run.

    Raises:
      UserError: if the files are not there or do not define what they should.
    """
    patches: list[str] = []
    make_optimizer, step = _load(repo, patches)
    task, config = torch_task(workload, "focal_sam"), workload.config()
    optimizer = make_optimizer(
        [p for p in task.module.parameters() if p.requires_grad],
        base_optimizer=torch.optim.SGD,
        rho=config.rho,
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    arguments = SimpleNamespace(
        prec="fp32", flat_gamma=config.gamma, sharpness=config.lam
    )
    positional = (
        arguments,
        task.module,
        reference.cross_entropy,
        task.images,
        task.labels,
        optimizer,
        workload.class_counts.tolist(),
    )

    def turn():
        with _cuda_calls(task.images.device, patches):
            step(*positional)

    task = task._replace(optimizer=optimizer)
    contestant = measured("torch_authors", task, turn, count_flops(turn))
    return contestant, list(dict.fromkeys(patches))


def _load(repo: Path, patches: list[str]) -> tuple[Callable[..., Any], Any]:
    """Returns the authors' optimizer and step."""
    missing = [name for name in _FILES if not (repo / name).is_file()]
    if missing:
        raise UserError(
            f"--torch-repo {repo} has no {' and no '.join(missing)}: pass a clone of "
            "the authors' Focal-SAM repository."
        )
    optimizers = _module(repo / "focal_sam.py")
    with _importable(repo, patches):
        steps = _module(repo / "train_step.py")
    try:
        return optimizers.FocalSAM, steps.focal_sam_step
    except AttributeError as error:
        raise UserError(
            f"--torch-repo {repo} is not the expected version of the repository: "
            f"{error}."
        ) from error


def _module(path: Path) -> ModuleType:
    specification = importlib.util.spec_from_file_location(path.stem, path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@contextmanager
def _importable(repo: Path, patches: list[str]):
    """Lets files of ``repo`` import its ``utils``, or an empty module."""
    path, known = list(sys.path), sys.modules.get("utils")
    sys.path.insert(0, str(repo))
    sys.modules.pop("utils", None)
    try:
        import utils  # noqa: F401
    except ImportError as error:
        empty: Any = ModuleType("utils")
        empty.grad_norm = None
        sys.modules["utils"] = empty
        patches.append(
            f"utils.py cannot be imported ({error}); the step does not use what "
            "train_step.py imports from it, so it is left empty"
        )
    try:
        yield
    finally:
        sys.path[:] = path
        sys.modules.pop("utils", None)
        if known is not None:
            sys.modules["utils"] = known


@contextmanager
def _cuda_calls(device: torch.device, patches: list[str]):
    """Makes ``tensor.cuda()`` return the tensor itself without a GPU."""
    if device.type == "cuda":
        yield
        return
    patches.append("there is no GPU, so tensor.cuda() does nothing")
    original = torch.Tensor.cuda
    torch.Tensor.cuda = lambda self, *_, **__: self
    try:
        yield
    finally:
        torch.Tensor.cuda = original
