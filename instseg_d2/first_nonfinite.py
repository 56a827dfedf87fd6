"""Where in a model the first number arises that is not finite."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


class FirstNonFinite:
    """Watches a model's forward and backward pass; a context manager.

    Modules tell when they are given something and when they finish, so that the first one is the
    innermost that a value comes from.

    Attributes:
        found: what was seen first, in words; "" for nothing so far.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.found = ""
        self._handles: list[Any] = []

    def __enter__(self) -> "FirstNonFinite":
        for name, module in self.model.named_modules():
            self._handles.append(module.register_forward_pre_hook(self._before_forward(name)))
            self._handles.append(module.register_forward_hook(self._after_forward(name)))
        for name, parameter in self.model.named_parameters():
            if not all_finite(parameter):
                self._note(f"before the step, in the weights: {name}")
            if parameter.requires_grad:
                words = f"in the backward pass: the gradient of the weights {name}"
                self._handles.append(parameter.register_hook(self._looks_at_gradient(words)))
        for name, buffer in self.model.named_buffers():
            if not all_finite(buffer):
                self._note(f"before the step, in the state: {name}")
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def look_at_batch(self, batch: list[dict[str, Any]]) -> None:
        """See whether the images themselves are finite."""
        for index, inputs in enumerate(batch):
            if not all_finite(inputs.get("image")):
                name = inputs.get("file_name", f"number {index + 1} of the batch")
                self._note(f"in the data: image {name}")

    def _note(self, words: str) -> None:
        self.found = self.found or words

    def _before_forward(self, name: str) -> Callable[[nn.Module, Any], None]:
        parent, _, part = name.rpartition(".")

        def look(module: nn.Module, inputs: Any) -> None:
            if part and not all_finite(inputs):
                giver = _in_words(parent)
                words = f"what {giver} gives to its part {part} ({type(module).__name__})"
                self._note(f"in the forward pass: {words}")

        return look

    def _after_forward(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, outputs: Any) -> None:
            words = f"what comes out of {_in_words(name)} ({type(module).__name__})"
            if not all_finite(outputs):
                self._note(f"in the forward pass: {words}")
            for tensor in _tensors(outputs):
                if tensor.requires_grad:
                    gradient = f"in the backward pass: the gradient of {words}"
                    tensor.register_hook(self._looks_at_gradient(gradient))

        return look

    def _looks_at_gradient(self, words: str) -> Callable[[Tensor], None]:
        def look(gradient: Tensor) -> None:
            if not all_finite(gradient):
                self._note(words)

        return look


def _in_words(name: str) -> str:
    return name or "the model itself"


def all_finite(value: Any) -> bool:
    """Whether all floating-point tensors in it, however nested in dicts, lists and tuples, are."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(value))


def _tensors(value: Any) -> Iterator[Tensor]:
    """The floating-point tensors in dicts, lists and tuples."""
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _tensors(part)
