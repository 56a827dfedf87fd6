"""An exponential moving average of a model's weights, which is often better than the last weights.

The average is what is evaluated in the course of a training and what its checkpoints have as their
``model``, so that each of them can be used as it is; the weights that go on training are beside it
(:meth:`WeightAverage.state_dict`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .errors import ConfigError


class WeightAverage:
    """The average of all floating-point tensors of a model's ``state_dict``.

    That includes the statistics of batch norms: those of the last weights would not fit the
    averaged weights, whose activations lie between those of many steps. Whole numbers, such as
    counts of batches, are copied.

    Attributes:
        num_updates: how often :meth:`update` was called.
    """

    def __init__(self, model: nn.Module, decay: float = 0.9998) -> None:
        """
        Args:
            model: not wrapped in ``DistributedDataParallel``; its weights are where the average
                starts.
            decay: share of the average that each update keeps, at least 0 and below 1. The first
                updates keep less, see :meth:`current_decay`.

        Raises:
            ConfigError: another decay.
        """
        check_decay(decay)
        self._model = model
        self._decay = decay
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        """Start anew from the model's weights."""
        self.num_updates = 0
        self._average = {name: value.clone() for name, value in self._model.state_dict().items()}

    def current_decay(self) -> float:
        """The decay of the next update: (1 + t) / (10 + t) after t updates, at most ``decay``.

        So the first weights, which are random or of another task, are soon forgotten.
        """
        return min(self._decay, (1 + self.num_updates) / (10 + self.num_updates))

    @torch.no_grad()
    def update(self) -> None:
        """Take in the model's weights, after a step of the optimiser."""
        weight = 1 - self.current_decay()
        self.num_updates += 1
        averages, values = [], []
        for name, value in self._model.state_dict().items():
            if value.is_floating_point():
                averages.append(self._average[name])
                values.append(value)
            else:
                self._average[name].copy_(value)
        # average + weight * (value - average): what does not change stays as it is, to the bit.
        torch._foreach_lerp_(averages, values, weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights within, and its own again, to the bit, afterwards."""
        own = {name: value.clone() for name, value in self._model.state_dict().items()}
        self._copy_to_model(self._average)
        try:
            yield
        finally:
            self._copy_to_model(own)

    def average(self) -> dict[str, Tensor]:
        """The averaged weights by name, as of the model's ``state_dict``; not copied."""
        return dict(self._average)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs beside :meth:`average`, which is its ``model``."""
        return {"num_updates": self.num_updates, "trained": self._model.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint whose ``model`` has been loaded into the model.

        Raises:
            KeyError, RuntimeError: the state is of another model.
        """
        self.reset()
        self.num_updates = int(state["num_updates"])
        self._copy_to_model(state["trained"])

    @torch.no_grad()
    def _copy_to_model(self, state: dict[str, Tensor]) -> None:
        # In place: the optimiser, and the processes' exchange of gradients, hold these tensors.
        for name, value in self._model.state_dict().items():
            value.copy_(state[name])


def check_decay(decay: float) -> None:
    """Raise ``ConfigError`` if no average can have this decay."""
    if not 0 <= decay < 1:
        raise ConfigError(f"MODEL.EMA.DECAY is {decay}; from 0 to below 1 is wanted")
