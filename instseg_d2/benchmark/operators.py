"""Where the time goes by operator: what to say where something is not faster."""

from __future__ import annotations

from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from .timing import Side

#: So many operators are named; the others are added up.
NUM_NAMED = 8


def operator_shares(side: Side, device: torch.device) -> list[dict[str, Any]]:
    """
    Args:
        side: is called twice, the second time under PyTorch's profiler.
        device: of its tensors; on a GPU the time is that of the GPU.

    Returns:
        the operators that take most, each with its own time (without that of operators that it
        calls): ``name``, ``ms`` and ``share`` (of all operators); last ``all others``.
    """
    side()
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    given = side.setup()
    with profile(activities=activities, acc_events=True) as profiler:
        side.run(given)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    own = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    times = {event.key: getattr(event, own) / 1000 for event in profiler.key_averages()}
    total = sum(times.values()) or 1.0
    names = sorted(times, key=lambda name: -times[name])
    rows = [(name, times[name]) for name in names[:NUM_NAMED]]
    rows.append(("all others", sum(times[name] for name in names[NUM_NAMED:])))
    return [{"name": name, "ms": ms, "share": ms / total} for name, ms in rows]
