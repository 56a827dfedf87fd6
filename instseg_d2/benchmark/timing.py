"""Ways to do the same thing, timed in turns, so that what else the machine does meets them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from .memory import peak_memory

QUANTILES = (0.1, 0.25, 0.75, 0.9)
WARM_UP = 2


@dataclass(frozen=True)
class Side:
    """One way to do it.

    Attributes:
        run: what is timed.
        setup: is called before, untimed; ``run`` gets what it returns.
    """

    run: Callable[[Any], Any]
    setup: Callable[[], Any] = lambda: None

    def __call__(self) -> Any:
        return self.run(self.setup())


@dataclass(frozen=True)
class Comparison:
    """Ways to do one thing.

    Attributes:
        name: what they do.
        sides: by name. The first is compared with all others.
        items: images that one call handles.
        macs: multiply-adds of one call by side, where they are known.
        difference: (result of the first side, result of another) -> how far they are apart; None
            for results that cannot be compared.
        memory: whether to measure the peak memory; it is that of tensors.
    """

    name: str
    sides: Mapping[str, Side]
    items: int = 1
    macs: Mapping[str, int] = field(default_factory=dict)
    difference: Callable[[Any, Any], float | None] | None = None
    memory: bool = True


def measure(
    comparison: Comparison, *, rounds: int, device: torch.device, matmul_rate: float
) -> dict[str, Any]:
    """
    Args:
        comparison: what to time.
        rounds: in each of them every side has its turn, in changing order.
        device: a CUDA device is waited for before and after each turn.
        matmul_rate: multiply-adds a second that the machine reaches in a matrix product.

    Returns:
        what is written as JSON: ``sides``, by name ``ms`` (median), ``ms_quantiles`` (10, 25, 75
        and 90 %), ``cpu_ms`` (of all threads; median), ``per_second`` (items), and as far as they
        are known ``peak_mb``, ``gmacs`` and ``share_of_matmul``; ``ratios``: how many times as long
        another side takes as the first, by side, ``median``, ``low`` and ``high`` (10 and 90 % of
        the rounds) and ``cpu`` (by CPU time); ``differences`` by side.
    """
    results = {name: side() for name, side in comparison.sides.items()}
    first, *others = comparison.sides
    compare = comparison.difference
    differences = {name: compare(results[first], results[name]) for name in others if compare}
    del results
    wall, cpu = timed_rounds(comparison.sides, rounds, device)
    sides: dict[str, Any] = {}
    for name, side in comparison.sides.items():
        seconds = statistics.median(wall[name])
        sides[name] = {
            "ms": 1000 * seconds,
            "ms_quantiles": [float(1000 * q) for q in np.quantile(wall[name], QUANTILES)],
            "cpu_ms": 1000 * statistics.median(cpu[name]),
            "per_second": comparison.items / seconds,
        }
        if comparison.memory:
            sides[name]["peak_mb"] = _peak_memory(side, device) / 2**20
        if macs := comparison.macs.get(name):
            sides[name]["gmacs"] = macs / 1e9
            sides[name]["share_of_matmul"] = macs / seconds / matmul_rate
    return {
        "sides": sides,
        "ratios": {
            name: {
                **ratio(wall[name], wall[first]),
                "cpu": sides[name]["cpu_ms"] / max(sides[first]["cpu_ms"], 1e-6),
            }
            for name in others
        },
        "differences": differences,
    }


def timed_rounds(
    sides: Mapping[str, Side], rounds: int, device: torch.device
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each turn by side: on the clock, and of the CPU (all threads of the process)."""
    for _ in range(WARM_UP - 1):  # the first call was the one that results were compared of
        for side in sides.values():
            side()
    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        names = list(sides) if number % 2 == 0 else list(sides)[::-1]
        for name in names:
            given = sides[name].setup()
            _wait_for(device)
            start, start_cpu = time.perf_counter(), time.process_time()
            result = sides[name].run(given)
            _wait_for(device)
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(time.process_time() - start_cpu)
            del result
    return wall, cpu


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """How many times as long the one takes, from the pairs of each round: the ``median``, and
    between which values (``low`` and ``high``) four of five rounds lie."""
    ratios = [one / other for one, other in zip(slow, fast, strict=True)]
    low, high = np.quantile(ratios, (QUANTILES[0], QUANTILES[-1]))
    return {"median": statistics.median(ratios), "low": float(low), "high": float(high)}


def _peak_memory(side: Side, device: torch.device) -> int:
    """Of ``run`` alone: what ``setup`` releases, such as gradients, is gone before."""
    given = side.setup()
    return peak_memory(lambda: side.run(given), device)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
