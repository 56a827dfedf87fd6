"""Where in a model the first number arises that is not finite."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


class FirstNonFinite:
    """Watches a model's forward and backward pass; a context manager.

    Modules tell in the order in which they finish, so that the innermost one that a value comes
    from is the first.

    Attributes:
        found: what was seen first, in words; "" for nothing so far.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.found = ""
        self._handles: list[Any] = []

    def __enter__(self) -> "FirstNonFinite":
        for name, module in self.model.named_modules():
            hook = self._after_forward(name or "the model itself")
            self._handles.append(module.register_forward_hook(hook))
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

    def _after_forward(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def look(module: nn.Module, inputs: Any, outputs: Any) -> None:
            if not all_finite(inputs):
                self._note(
                    f"in the forward pass: what is given to {name} ({type(module).__name__})"
                )
            elif not all_finite(outputs):
                self._note(
                    f"in the forward pass: what comes out of {name} ({type(module).__name__}); "
                    "what goes in is finite"
                )
            words = f"in the backward pass: the gradient of what comes out of {name}"
            for tensor in _tensors(outputs):
                if tensor.requires_grad:
                    tensor.register_hook(self._looks_at_gradient(words))

        return look

    def _looks_at_gradient(self, words: str) -> Callable[[Tensor], None]:
        def look(gradient: Tensor) -> None:
            if not all_finite(gradient):
                self._note(words)

        return look


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
