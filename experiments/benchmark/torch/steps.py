"""The same steps in PyTorch, eager or compiled."""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import focal_sam_jax as fsam
from experiments.benchmark.contestant import Contestant
from experiments.benchmark.torch import reference
from experiments.benchmark.torch.memory import peak_bytes
from experiments.benchmark.torch.task import TorchTask, torch_task
from experiments.benchmark.workload import Method, Workload, step_name


def torch_step(workload: Workload, method: Method, *, compiled: bool) -> Contestant:
    """Returns the training step of a method, from the reference in this folder.

    With ``compiled`` the network is compiled by ``torch.compile``, with channels last.
    bfloat16 uses autocast: weights are in float32.
    """
    task = torch_task(workload, method)
    step = method_step(task)
    if not compiled:
        turn = partial(
            step,
            task.module,
            task.optimizer,
            reference.cross_entropy,
            task.images,
            task.labels,
        )
        return measured("torch", task, turn, count_flops(turn))
    flops = torch_step(workload, method, compiled=False).costs["flops"]
    torch._dynamo.reset()
    compile_module(task)
    turn = partial(
        step,
        task.module,
        task.optimizer,
        reference.cross_entropy,
        task.images.contiguous(memory_format=torch.channels_last),
        task.labels,
    )
    return measured("torch_compile", task, turn, flops)


def compile_module(task: TorchTask) -> None:
    """Compiles the network at its first call, with channels last and no cache."""
    # Two backward passes use one graph.
    torch._functorch.config.donated_buffer = False
    torch._inductor.config.fx_graph_cache = False
    torch._functorch.config.enable_autograd_cache = False
    task.module.to(memory_format=torch.channels_last)
    task.module.compile()


def method_step(task: TorchTask) -> Callable[..., None]:
    """Returns the reference's step with the recipe's hyper-parameters."""
    config, counts = task.workload.config(task.method), task.workload.class_counts
    device = task.images.device
    match task.method:
        case "sgd":
            return reference.sgd_step
        case "sam":
            return partial(reference.sam_step, rho=config.rho)
        case "cc_sam" | "cc_sam_head":
            radii = torch.from_numpy(np.array(fsam.cc_sam_radii(counts, config.rho)))
            last = ("linear", "fc", "head")
            return partial(
                reference.cc_sam_step,
                radii=radii.to(device),
                perturbed=last if task.method == "cc_sam_head" else ("",),
            )
        case "sse_sam":
            return partial(
                reference.sse_sam_step,
                is_tail=torch.from_numpy(counts < config.tail_threshold).to(device),
                head_rho=config.head_rho,
                tail_rho=config.rho,
            )
        case "imbsam":
            of_class = reference.tail_coefficients(counts, config.tail_threshold)
        case "focal_sam":
            of_class = reference.focal_coefficients(counts, config.gamma, config.lam)
    return partial(
        reference.focal_sam_step, rho=config.rho, coefficients=of_class.to(device)
    )


def measured(
    framework: str, task: TorchTask, turn: Callable[[], None], flops: float
) -> Contestant:
    """Returns the step with its costs, measured in a few turns."""
    run = repeatedly(turn, task.images.device)
    first, later = _seconds(run), _seconds(run)
    name = step_name(framework, task.workload, task.method)
    costs = {
        "flops": flops,
        "peak_bytes": peak_bytes(turn, task.held_bytes, task.images.device),
        "compile_s": max(first - later, 0.0),
    }
    return Contestant(name, run, costs)


def count_flops(turn: Callable[[], None]) -> float:
    """Runs a turn; returns the FLOPs of its matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        turn()
    return float(counter.get_total_flops())


def repeatedly(turn: Callable[[], None], device: torch.device) -> Callable[[int], None]:
    """Returns a function that runs turns, and waits for the last one only."""

    def run(turns):
        for _ in range(turns):
            turn()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


def _seconds(run):
    began = time.perf_counter()
    run(1)
    return time.perf_counter() - began
