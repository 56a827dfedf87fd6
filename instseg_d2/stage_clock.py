"""How long the stages of a computation take."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch


class NoClock:
    """Measures nothing and costs nothing; what functions take a clock for by default."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Does nothing."""
        return nullcontext()


class StageClock(NoClock):
    """Adds up wall time by stage.

    ``with clock.stage("head"): ...``, as often as wanted. Stages must not lie within each other.

    Attributes:
        seconds: by stage, in the order of their first beginning.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """``device``: a CUDA device is waited for at the beginning and end of each stage."""
        self.device = torch.device(device)
        self.seconds: dict[str, float] = {}

    @contextmanager
    def _measured(self, name: str) -> Iterator[None]:
        self.seconds.setdefault(name, 0.0)
        start = self._now()
        try:
            yield
        finally:
            self.seconds[name] += self._now() - start

    def stage(self, name: str) -> AbstractContextManager[None]:
        """What is measured as ``name``."""
        return self._measured(name)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


NO_CLOCK = NoClock()
