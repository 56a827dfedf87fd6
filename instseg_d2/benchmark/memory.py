"""The most memory that tensors take up while something runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


def peak_memory(run: Callable[[], Any], device: torch.device) -> int:
    """Bytes of tensors on ``device`` at the worst moment, beyond those that were there before.

    On a GPU it is ``max_memory_allocated``; what recorded CUDA graphs hold was there before. On a
    CPU the allocations and releases of PyTorch are added up in order, which unlike the size of the
    process does not depend on what the allocator keeps for later. Memory of NumPy and OpenCV and
    the scratch space within oneDNN's operators are not in it.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(
        activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profiler:
        run()
    results = profiler.profiler.kineto_results
    changes = [
        (event.start_ns(), event.nbytes())
        for event in results.events()
        if event.name() == "[memory]" and event.device_type() == torch.profiler.DeviceType.CPU
    ]
    now = peak = 0
    for _, size in sorted(changes, key=lambda change: change[0]):
        now += size
        peak = max(peak, now)
    return peak
