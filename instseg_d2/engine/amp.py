"""Detectron2's training loop in mixed precision, on any device that PyTorch's autocast knows."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

import torch
from detectron2.engine import SimpleTrainer
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

if TYPE_CHECKING:
    from .nonfinite import StepGuard

logger = logging.getLogger(__name__)

HALLMARKS = {"momentum", "betas"}
"""Options of a group that tell SGD from AdamW."""


class MixedPrecisionTrainer(SimpleTrainer):
    """Runs the forward pass under autocast and, in float16, scales the loss.

    Detectron2's own ``AMPTrainer`` runs on CUDA alone and always scales. Checkpoints go both ways:
    the scaler is stored under its name there, ``grad_scaler``; a run that has no scaler leaves the
    stored one unread, and one that finds none starts with a new one.

    Attributes:
        guard: looks at each step before it is taken; None: a loss that is not finite raises
            ``FloatingPointError``, and gradients are not looked at.
    """

    guard: StepGuard | None = None

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        *,
        device_type: str,
        dtype: torch.dtype,
        grad_scaler: torch.amp.GradScaler | None = None,
        gather_metric_period: int = 1,
        zero_grad_before_forward: bool = False,
        async_write_metrics: bool = False,
    ) -> None:
        """
        Args:
            model, data_loader, optimizer: as in ``SimpleTrainer``; the parameters stay float32.
            device_type: where the model is: "cuda", "cpu", ...
            dtype: float16 or bfloat16, what autocast computes in; float32 for no autocast.
            grad_scaler: None: a new one for float16, whose smallest gradients would become zero;
                none for the others, which have the range that is needed.
            gather_metric_period, zero_grad_before_forward, async_write_metrics: as in
                ``SimpleTrainer``.
        """
        super().__init__(
            model,
            data_loader,
            optimizer,
            gather_metric_period=gather_metric_period,
            zero_grad_before_forward=zero_grad_before_forward,
            async_write_metrics=async_write_metrics,
        )
        self.device_type = device_type
        self.dtype = dtype
        if grad_scaler is None and dtype == torch.float16:
            grad_scaler = torch.amp.GradScaler(device_type)
        self.grad_scaler = grad_scaler

    def run_step(self) -> None:
        """One iteration.

        Raises:
            FloatingPointError: the loss is not finite, or see the guard. Gradients that are not
                finite, with a loss that is, make the scaler skip the step and lower its scale.
        """
        assert self.model.training, "the model was changed to eval mode"
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        if self.guard is not None:
            self.guard.before_step([data])
        if self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        losses = self._forward(data)
        if not self.zero_grad_before_forward:
            self.optimizer.zero_grad()
        self._backward(cast(Tensor, sum(losses.values())))
        self._finish_step(losses, data_time)

    def end_workers(self) -> None:
        """End the processes that read data: the traceback of an error would keep them running."""
        self._data_loader_iter_obj = None  # another step makes a new one

    def _finish_step(self, losses: dict[str, Tensor], data_time: float) -> None:
        """All that comes after the backward pass."""
        self.after_backward()
        if self.guard is not None and not self.guard.allows_step(self.iter, losses):
            get_event_storage().put_scalar("nonfinite_skips", self.guard.num_skipped)
            return
        if self.async_write_metrics:
            self.concurrent_executor.submit(self._write_metrics, losses, data_time, iter=self.iter)
        else:
            self._write_metrics(losses, data_time)
        self._update()

    def _forward(self, data: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The losses by name; a model that gives one tensor gives ``total_loss``."""
        is_mixed = self.dtype != torch.float32
        with torch.autocast(self.device_type, dtype=self.dtype, enabled=is_mixed):
            losses = self.model(data, **kwargs)
        return {"total_loss": losses} if isinstance(losses, Tensor) else losses

    def _backward(self, loss: Tensor) -> None:
        # Outside autocast: the operations of the backward pass take the types of the forward pass.
        if self.grad_scaler is not None:
            loss = self.grad_scaler.scale(loss)
        loss.backward()

    def _update(self) -> None:
        if self.grad_scaler is None:
            self.optimizer.step()
            return
        # Fused optimisers unscale within their step, after the clipping, which would then bound
        # the scaled gradients.
        self.grad_scaler.unscale_(self.optimizer)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if self.grad_scaler is not None:
            state["grad_scaler"] = self.grad_scaler.state_dict()
        if self.guard is not None:
            state["guard"] = self.guard.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        _check_optimizer(self.optimizer, state_dict["optimizer"])
        _warn_of_other_options(self.optimizer, state_dict["optimizer"])
        super().load_state_dict(state_dict)
        # A scaler that was disabled, as Detectron2's is without CUDA, has an empty state.
        if self.grad_scaler is not None and state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        if self.guard is not None and "guard" in state_dict:
            self.guard.load_state_dict(state_dict["guard"])


def _check_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """PyTorch loads the state of another optimiser, and fails at the next step.

    Raises:
        ValueError: the options of the groups are those of another kind.
    """
    ours, theirs = set(optimizer.param_groups[0]), set(state["param_groups"][0])
    if (ours ^ theirs) & HALLMARKS:  # of all others versions of PyTorch may know more or fewer
        options = ", ".join(sorted(theirs - ours))
        raise ValueError(f"it is of another optimiser, one with {options}")


def _warn_of_other_options(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Say which options of the config have no effect, because those of the checkpoint are kept."""
    names = {"initial_lr": "learning rate", "weight_decay": "weight decay", "momentum": "momentum"}
    changes = {
        f"{name} {theirs[key]:g} (config: {ours[key]:g})": None
        for ours, theirs in zip(optimizer.param_groups, state["param_groups"], strict=False)
        for key, name in names.items()
        if key in ours and key in theirs and ours[key] != theirs[key]
    }
    if changes:
        logger.warning(
            "The training goes on with what it began with: %s. To change that, start a new run "
            "from its weights, MODEL.WEIGHTS and a new OUTPUT_DIR, in place of --resume.",
            ", ".join(list(changes)[:3]),
        )
