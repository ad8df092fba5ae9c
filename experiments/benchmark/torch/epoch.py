"""The same epoch in usual PyTorch style: a dataset, a loader, a loop."""

import torch
from torch.utils.data import DataLoader

from experiments.benchmark.contestant import Contestant
from experiments.benchmark.torch import reference
from experiments.benchmark.torch.images import Images
from experiments.benchmark.torch.steps import compile_module, method_step
from experiments.benchmark.torch.task import torch_task
from experiments.benchmark.workload import Method, Workload, step_name
from experiments.data.dataset import Dataset


def torch_epoch(
    workload: Workload, method: Method, data: Dataset, *, compiled: bool, workers: int
) -> Contestant:
    """Returns an epoch of the reference, read by ``workers`` processes."""
    task = torch_task(workload._replace(num_classes=len(data.class_counts)), method)
    device, form = task.images.device, torch.contiguous_format
    if compiled:
        form = torch.channels_last
        compile_module(task)
    step = method_step(task)
    loader = DataLoader(
        Images(data.train.images, data.train.labels, data.mean, data.std),
        workload.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        # A fork of a process with many threads, as JAX has, may hang.
        multiprocessing_context="spawn" if workers else None,
        pin_memory=device.type == "cuda",
    )

    def run(turns):
        for _ in range(turns):
            for images, labels in loader:
                images = images.to(device, non_blocking=True, memory_format=form)
                labels = labels.to(device, non_blocking=True)
                step(
                    task.module, task.optimizer, reference.cross_entropy, images, labels
                )
        if device.type == "cuda":
            torch.cuda.synchronize()

    framework = "torch_compile" if compiled else "torch"
    name = step_name(framework, workload, method)
    return Contestant(name, run, {"steps": len(loader)})
