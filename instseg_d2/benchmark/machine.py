"""What the machine is, and how fast it can be at best."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

#: Side of the square matrices, by type of device; a product should take long beside its launch.
MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}
#: A 3 x 3 convolution of the encoder: channels, height and width for an image of 640 x 864.
CONV_SHAPE = (256, 80, 108)
REPEATS = 15


def machine(device: torch.device) -> dict[str, Any]:
    """What belongs beside a figure: ``date``, ``device``, ``cores``, ``threads``, ``load`` (of the
    last minute, other programs included) and ``versions``."""
    name = _processor()
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "date": date.today().isoformat(),
        "device": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("torch", "torchvision", "detectron2")},
            "cuda": torch.version.cuda,
        },
    }


@torch.no_grad()
def peak_rates(device: torch.device, dtype: torch.dtype) -> dict[str, float]:
    """Multiply-adds a second, the best of some runs: of a large matrix product (``matmul``) and of
    a 3 x 3 convolution as SparseInst's encoder and decoder have them (``conv3x3``)."""
    side = MATRIX_SIDE[device.type]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    channels, height, width = CONV_SHAPE
    batch = 1 if device.type == "cpu" else 8
    images = torch.randn(batch, channels, height, width, device=device)
    weight = torch.randn(channels, channels, 3, 3, device=device)
    images, weight = (
        x.to(dtype=dtype, memory_format=torch.channels_last) for x in (images, weight)
    )
    matmul = _best_seconds(lambda: left @ right, device)
    conv = _best_seconds(lambda: F.conv2d(images, weight, padding=1), device)
    return {
        "matmul": side**3 / matmul,
        "conv3x3": batch * height * width * channels**2 * 9 / conv,
    }


def _best_seconds(run: Callable[[], Any], device: torch.device) -> float:
    seconds = []
    for _ in range(REPEATS + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = time.perf_counter()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
