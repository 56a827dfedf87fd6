"""What a training does when losses or gradients are not finite (``SOLVER.ON_NONFINITE``).

The loop calls :meth:`StepGuard.before_step` with what the model is about to get, and after the
backward pass :meth:`StepGuard.allows_step`, before the optimiser changes anything. All processes
decide alike: none takes a step that another one does not.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import ConfigError, NonFiniteStepError
from .replay import StepRecord

ACTIONS = ("raise", "skip")
#: The most names in a message.
MAX_NAMES = 3
#: A loss scaler that has come down to this has not merely begun too high.
LEAST_SCALE = 1.0

logger = logging.getLogger(__name__)

Batch = list[dict[str, Any]]


def check_nonfinite(cfg: CfgNode) -> None:
    """See that ``SOLVER.ON_NONFINITE`` and its limit can be followed.

    Raises:
        ConfigError: an unknown action, or a negative limit.
    """
    action, limit = cfg.SOLVER.ON_NONFINITE, cfg.SOLVER.MAX_NONFINITE_SKIPS
    if action not in ACTIONS:
        raise ConfigError(f"SOLVER.ON_NONFINITE is {action!r}; known are raise and skip")
    if limit < 0:
        raise ConfigError(f"SOLVER.MAX_NONFINITE_SKIPS is {limit}; it must be at least 0")


@dataclass(frozen=True)
class _Findings:
    """What a step in one process looks like.

    Attributes:
        losses: by name.
        bad_gradients: names of the weights whose gradient is not finite.
        norm: of all gradients together, multiplied by ``scale``.
        scale: of the loss; 1 also where all is finite.
    """

    losses: dict[str, float]
    bad_gradients: list[str]
    norm: float
    scale: float

    @property
    def bad_losses(self) -> list[str]:
        return [name for name, value in self.losses.items() if not math.isfinite(value)]

    @property
    def is_bad(self) -> bool:
        is_searching = self.scale > LEAST_SCALE
        return bool(self.bad_losses) or bool(self.bad_gradients and not is_searching)


class StepGuard:
    """Looks at the losses and gradients of each step, and stops or skips those that are not finite.

    With float16's loss scaler, gradients that are not finite are normal while it searches its
    scale, and left to it: as long as the losses are finite and the scale is above 1.

    Attributes:
        num_skipped: steps skipped so far, in the training that was resumed as well.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        action: str = "raise",
        max_skips: int = 10,
        output_dir: str = "",
        config: str = "",
        precision: torch.dtype = torch.float32,
        grad_scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        """
        Args:
            model: may be wrapped in ``DistributedDataParallel``.
            optimizer: of the model.
            action: one of :data:`ACTIONS`.
            max_skips: the next one raises.
            output_dir: where steps are saved.
            config: is saved with them, as YAML.
            precision: what autocast computes in; float32 for no autocast.
            grad_scaler: of the loop, if it has one.
        """
        if isinstance(model, DistributedDataParallel):
            model = cast(nn.Module, model.module)
        self.model = model
        self.optimizer = optimizer
        self.action = action
        self.max_skips = max_skips
        self.output_dir = output_dir
        self.config = config
        self.precision = precision
        self.grad_scaler = grad_scaler
        self.num_skipped = 0
        self._batches: list[Batch] = []
        self._rng: dict[str, Tensor] = {}
        # The forward pass changes these, the step that is skipped must not.
        self._statistics = {
            f"{name}.{key}" if name else key: buffer
            for name, module in self.model.named_modules()
            if isinstance(module, nn.modules.batchnorm._NormBase)
            for key, buffer in module.named_buffers(recurse=False)
        }
        self._old_statistics: dict[str, Tensor] = {}

    def before_step(self, batches: list[Batch]) -> None:
        """Keep what the step depends on and changes before its end.

        Args:
            batches: that the model gets in this step, one after the other.
        """
        self._batches = batches
        self._rng = {"cpu": torch.get_rng_state()}
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            self._rng["cuda"] = torch.cuda.get_rng_state()
        for name, buffer in self._statistics.items():
            if name not in self._old_statistics:
                self._old_statistics[name] = buffer.clone()
            else:
                self._old_statistics[name].copy_(buffer)

    def allows_step(self, iteration: int, losses: Mapping[str, Tensor]) -> bool:
        """Whether the optimiser may take the step; called in all processes at once.

        If not, gradients and batch norms are as if the step had not been begun.

        Args:
            iteration: from 0.
            losses: scalars; their gradients have been summed up.

        Raises:
            NonFiniteStepError: it may not, and the action is to raise, or too many were skipped.
        """
        found = self._look(losses)
        if not _anywhere(found.is_bad, next(iter(losses.values())).device):
            self._batches = []
            return True
        report = self._report(iteration, found) if found.is_bad else ""
        reports = "\n".join(text for text in comm.all_gather(report) if text)
        self._undo()
        self.num_skipped += 1
        if self.action == "raise":
            raise NonFiniteStepError(
                f"{reports}\nTo go on without such steps, if they are few: SOLVER.ON_NONFINITE skip"
            )
        if self.num_skipped > self.max_skips:
            raise NonFiniteStepError(
                f"{reports}\nNot skipped, since as many were before as "
                f"SOLVER.MAX_NONFINITE_SKIPS allows, {self.max_skips}: the training has diverged, "
                "or the data is at fault"
            )
        logger.warning("%s\nSkipped, %d of at most %d.", reports, self.num_skipped, self.max_skips)
        return False

    def state_dict(self) -> dict[str, int]:
        return {"num_skipped": self.num_skipped}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.num_skipped = state["num_skipped"]

    def _look(self, losses: Mapping[str, Tensor]) -> _Findings:
        gradients = {
            name: parameter.grad
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }
        numbers = torch.stack([value.detach().float() for value in losses.values()])
        norm = torch.nn.utils.get_total_norm(list(gradients.values())).to(numbers)
        # In one go: a GPU is waited for once.
        *values, total_norm = torch.cat([numbers, norm[None]]).tolist()
        named = dict(zip(losses, values, strict=True))
        if all(map(math.isfinite, (*values, total_norm))):
            return _Findings(named, [], total_norm, 1.0)
        # An infinite norm may also be an overflow of the squares.
        bad = [name for name, value in gradients.items() if not torch.isfinite(value).all()]
        scale = self.grad_scaler.get_scale() if self.grad_scaler else 1.0
        return _Findings(named, bad, total_norm, scale)

    def _undo(self) -> None:
        self.optimizer.zero_grad()
        for name, buffer in self._statistics.items():
            buffer.copy_(self._old_statistics[name])
        self._batches = []

    def _report(self, iteration: int, found: _Findings) -> str:
        """Say what is wrong, and save the step."""
        what = [f"{name} is {found.losses[name]}" for name in found.bad_losses]
        if found.bad_gradients:
            what.append(f"no finite gradient for {_some(found.bad_gradients)}")
        rates = sorted({group["lr"] for group in self.optimizer.param_groups})
        process = f", process {comm.get_rank()}" if comm.get_world_size() > 1 else ""
        images = [_image_name(inputs) for batch in self._batches for inputs in batch]
        lines = [
            f"iteration {iteration}{process}: {', '.join(what)}",
            "losses: " + ", ".join(f"{name} {value:.5g}" for name, value in found.losses.items()),
            f"learning rate: {', '.join(f'{rate:.5g}' for rate in rates)}; "
            f"gradient norm: {found.norm / found.scale:.5g}",
            "images: " + ", ".join(images),
        ]
        lines.append(self._save(iteration, "\n  ".join(lines), found))
        return "\n  ".join(lines)

    def _save(self, iteration: int, report: str, found: _Findings) -> str:
        """Save the step; in words where, or why not: the report matters more."""
        suffix = f"_rank{comm.get_rank()}" if comm.get_rank() else ""
        path = os.path.join(self.output_dir, f"nonfinite_{iteration:07d}{suffix}.pth")
        record = StepRecord(
            iteration=iteration,
            report=report,
            losses=found.losses,
            config=self.config,
            precision=str(self.precision).removeprefix("torch."),
            loss_scale=found.scale,
            rng=self._rng,
            batches=self._batches,
            model={**self.model.state_dict(), **self._old_statistics},
        )
        try:
            record.save(path)
        except (OSError, RuntimeError) as error:  # a full disk, for example
            return f"the step could not be saved: {error}"
        return f"saved; where it begins: python tools/replay_batch.py {path}"


def _anywhere(is_bad: bool, device: torch.device) -> bool:
    """Whether it is so in any of the processes."""
    if comm.get_world_size() == 1:
        return is_bad
    flag = torch.tensor(float(is_bad), device=device)
    torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
    return bool(flag.item())


def _some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    text = ", ".join(names[:MAX_NAMES])
    more = len(names) - MAX_NAMES
    return f"{text} and {more} more" if more > 0 else text


def _image_name(inputs: Any) -> str:
    """What is known of where an image of a batch comes from."""
    if not isinstance(inputs, dict) or "file_name" not in inputs:
        return "(without a name)"
    if inputs.get("image_id") is None:
        return str(inputs["file_name"])
    return f"{inputs['file_name']} (image id {inputs['image_id']})"
