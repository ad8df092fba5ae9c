"""Peak memory of PyTorch."""

import itertools
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(turn: Callable[[], None], held: int, device: torch.device) -> int:
    """Measures the peak bytes of all tensors in a turn.

    On a GPU the allocator reports them. On the CPU every allocation is recorded, except
    those that the libraries below PyTorch make themselves.

    Args:
      turn: function that is called once.
      held: bytes that exist before it and after.
      device: device of the tensors.
    """
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        others = torch.cuda.memory_allocated() - held
        turn()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - others
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        turn()
    events = [
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    changes = itertools.accumulate(change for _, change in sorted(events))
    return held + max(changes, default=0)
