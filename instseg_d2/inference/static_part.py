"""The part of a model that depends on its input by the size alone, and ways to run it faster.

What a model does with the network's outputs (thresholds, lists of instances) depends on their
values; what comes before does not, and can be compiled or recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from instseg_d2.errors import ConfigError

#: Images (B, 3, H, W) -> a tensor, or any tuple, list or dict of them.
Network = Callable[[Tensor], Any]

#: So many sizes are kept recorded: each has memory of its own for the input and the outputs.
MAX_RECORDED_SIZES = 16


@dataclass(frozen=True)
class StaticPart:
    """What a model declares as its attribute ``static_part``.

    Attributes:
        name: of a method or module of the model that images (B, 3, H, W) go through.
        modules: names of the modules that it consists of; nothing else uses their weights.
    """

    name: str
    modules: tuple[str, ...]


def static_part(model: nn.Module) -> StaticPart | None:
    """What a model declares; else the backbone; None for a model without one."""
    declared = getattr(model, "static_part", None)
    if isinstance(declared, StaticPart):
        return declared
    if isinstance(getattr(model, "backbone", None), nn.Module):
        return StaticPart("backbone", ("backbone",))
    return None


def wrap(model: nn.Module, part: StaticPart, wrapper: Callable[[Network], Network]) -> None:
    """Have a wrapper around the static part of one model, in place."""
    target = getattr(model, part.name)
    if isinstance(target, nn.Module):
        target.forward = wrapper(target.forward)
    else:
        object.__setattr__(model, part.name, wrapper(target))


def half_precision(network: Network, dtype: torch.dtype) -> Network:
    """The network in half precision, where autocast deems that safe, with outputs in float32."""

    def run(images: Tensor) -> Any:
        with torch.autocast(images.device.type, dtype=dtype, cache_enabled=False):
            outputs = network(images)
        return map_tensors(torch.Tensor.float, outputs)

    return run


def halve_weights(model: nn.Module, part: StaticPart, dtype: torch.dtype) -> None:
    """Keep the weights that autocast would convert at each use in half precision, in place."""
    for name in part.modules:
        for module in model.get_submodule(name).modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.to(dtype)


def compiled(network: Network) -> Network:
    """The network through ``torch.compile``, once for each input size.

    It raises ``ConfigError`` if the compiler fails. Beyond so many sizes (PyTorch's limit, 8) it
    runs uncompiled.
    """
    fast = torch.compile(network, dynamic=False)

    def run(images: Tensor) -> Any:
        try:
            return fast(images)
        except torch._dynamo.exc.BackendCompilerFailed as error:
            reason = str(error.inner_exception).strip().split("\n", 1)[0]
            raise ConfigError(
                "MODEL.INFERENCE.COMPILE: torch.compile failed (on a CPU it needs a C++ compiler, "
                f"on a GPU Triton); set it to False. It says: {reason}"
            ) from error

    return run


class CudaGraphs:
    """Records what a network launches on the GPU, once for each input size, and replays it.

    Saves the time that the CPU takes to launch each kernel. Inputs on the CPU run as they are.
    """

    def __init__(self, network: Network, max_sizes: int = MAX_RECORDED_SIZES) -> None:
        self.network = network
        self.max_sizes = max_sizes
        self._recordings: dict[Any, _Recording] = {}  # the least recently used first

    def __call__(self, images: Tensor) -> Any:
        """(B, 3, H, W) -> the network's outputs, in memory of their own."""
        if not images.is_cuda:
            return self.network(images)
        key = (images.shape, images.dtype, images.device)
        recording = self._recordings.pop(key, None)
        if recording is None:
            while len(self._recordings) >= self.max_sizes:
                del self._recordings[next(iter(self._recordings))]
            recording = _Recording(self.network, images)
        self._recordings[key] = recording
        return recording.replay(images)


class _Recording:
    """One network for one input size."""

    @torch.no_grad()
    def __init__(self, network: Network, images: Tensor) -> None:
        self.images = images.clone()
        # Kernels are chosen and workspaces made in the first runs, which cannot be recorded.
        stream = torch.cuda.Stream(images.device)
        stream.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(stream):
            for _ in range(3):
                network(self.images)
        torch.cuda.current_stream(images.device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = network(self.images)

    def replay(self, images: Tensor) -> Any:
        self.images.copy_(images)
        self.graph.replay()
        return map_tensors(torch.Tensor.clone, self.outputs)


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """``value`` with the function applied to each tensor in its dicts, lists and (named) tuples."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, dict):
        return {key: map_tensors(function, entry) for key, entry in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(function, entry) for entry in value))
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(function, entry) for entry in value)
    return value
