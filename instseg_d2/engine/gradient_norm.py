"""The norm of the whole gradient, before any clipping, among the metrics."""

import torch
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.utils.events import get_event_storage

from ..solver import FullModelClipping

#: Iterations between two values: to read one, a GPU has to be waited for.
PERIOD = 20


class GradientNorm(HookBase):
    """Writes ``grad_norm`` every 20 iterations: what the clipping of the whole model's gradient
    computes anyway (of ``SOLVER.CLIP_GRADIENTS.NORM_TYPE``); without that, the 2-norm.

    It is to be registered with the trainer (for :meth:`after_step`), then with the training loop
    inside it (for :meth:`after_backward`), which also is the one that it reads.
    """

    trainer: SimpleTrainer

    def after_backward(self) -> None:
        if self.trainer.iter % PERIOD:
            return
        clipping = self._clipping()
        if clipping is not None:
            clipping.last_norm = None  # a step that a loss scaler skips has none
            return
        gradients = [
            parameter.grad
            for group in self.trainer.optimizer.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        norm = torch.nn.utils.get_total_norm(gradients)
        scaler = getattr(self.trainer, "grad_scaler", None)
        self._write(norm / (scaler.get_scale() if scaler is not None else 1.0))

    def after_step(self) -> None:
        clipping = self._clipping()
        is_due = self.trainer.iter % PERIOD == 0
        if is_due and clipping is not None and clipping.last_norm is not None:
            self._write(clipping.last_norm)

    def _clipping(self) -> FullModelClipping | None:
        return getattr(self.trainer.optimizer, "full_model_clipping", None)

    def _write(self, norm: torch.Tensor) -> None:
        value = norm.item()
        if value < float("inf"):  # nor NaN: the step is skipped, or the loss says more
            get_event_storage().put_scalar("grad_norm", value, smoothing_hint=False)
