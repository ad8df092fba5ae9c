"""The most memory that PyTorch holds at once."""

import itertools
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(turn: Callable[[], None], held: int, device: torch.device) -> int:
    """Bytes of all tensors at the worst moment of a turn.

    On a GPU the allocator knows. On the CPU every allocation is recorded; what the
    libraries below take by themselves is not seen there.

    Args:
      turn: is made once.
      held: bytes of what exists before it and after.
      device: where they are.
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
