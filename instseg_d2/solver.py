"""Optimisers with the authors' parameter groups, clipping of the whole model's gradient, schedules
with a rate for each step."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, WarmupParamScheduler
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver.build import maybe_add_gradient_clipping
from fvcore.common.param_scheduler import MultiStepParamScheduler
from torch import nn

from .errors import ConfigError

#: A parameter with one of these in its name gets no weight decay (norm scales and shifts, and the
#: embeddings of vision transformers).
NO_DECAY_NAMES = ("norm", "patch_embed", "cls_token")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that ``SOLVER`` describes.

    ``OPTIMIZER`` "ADAMW" or "SGD" (any case); ``BACKBONE_MULTIPLIER`` scales the backbone's
    learning rate; ``CLIP_GRADIENTS`` with ``CLIP_TYPE`` "full_model" clips the norm of all
    gradients together (by an attribute ``full_model_clipping``, a :class:`FullModelClipping`),
    "norm" and "value" are Detectron2's.

    Raises:
        ConfigError: unknown ``OPTIMIZER`` or ``CLIP_TYPE``.
    """
    solver = cfg.SOLVER
    groups = parameter_groups(
        model,
        base_lr=solver.BASE_LR,
        weight_decay=solver.WEIGHT_DECAY,
        backbone_multiplier=solver.BACKBONE_MULTIPLIER,
    )
    kind = solver.OPTIMIZER.upper()
    optimizer: torch.optim.Optimizer
    if kind == "ADAMW":
        optimizer = torch.optim.AdamW(groups, lr=solver.BASE_LR, amsgrad=solver.AMSGRAD)
    elif kind == "SGD":
        optimizer = torch.optim.SGD(
            groups, lr=solver.BASE_LR, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV
        )
    else:
        raise ConfigError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; known are ADAMW and SGD")
    return _with_clipping(cfg, optimizer)


def build_lr_scheduler(
    cfg: CfgNode, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """Detectron2's schedule, or with ``SOLVER.STEP_FACTORS`` one with a rate of its own for each
    interval between ``SOLVER.STEPS``; a warm-up precedes both.

    Raises:
        ConfigError: not one factor more than steps, or steps that do not rise.
    """
    solver = cfg.SOLVER
    factors, steps = list(solver.STEP_FACTORS), list(solver.STEPS)
    if not factors:
        return build_detectron2_lr_scheduler(cfg, optimizer)
    if len(factors) != len(steps) + 1 or steps != sorted(set(steps)):
        raise ConfigError(
            f"SOLVER.STEP_FACTORS {tuple(factors)} with SOLVER.STEPS {tuple(steps)}: rising steps "
            "and one factor more than steps are wanted, or no factors (then SOLVER.GAMMA counts)"
        )
    steps = [step for step in steps if step < solver.MAX_ITER]
    schedule = MultiStepParamScheduler(
        values=factors[: len(steps) + 1], milestones=steps, num_updates=solver.MAX_ITER
    )
    with_warmup = WarmupParamScheduler(
        schedule,
        solver.WARMUP_FACTOR,
        min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        solver.WARMUP_METHOD,
    )
    return LRMultiplier(optimizer, multiplier=with_warmup, max_iter=solver.MAX_ITER)


def parameter_groups(
    model: nn.Module, *, base_lr: float, weight_decay: float, backbone_multiplier: float = 1.0
) -> list[dict[str, Any]]:
    """Trainable parameters, grouped by learning rate and weight decay (at most four groups).

    Parameters of the backbone have "backbone" in their name; see :data:`NO_DECAY_NAMES` for those
    without weight decay. A parameter that several modules share appears once.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        lr = base_lr * (backbone_multiplier if "backbone" in name else 1.0)
        decay = 0.0 if any(part in name for part in NO_DECAY_NAMES) else weight_decay
        groups.setdefault((lr, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": lr, "weight_decay": decay}
        for (lr, decay), parameters in groups.items()
    ]


def _with_clipping(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return optimizer
    if clip.CLIP_TYPE in ("norm", "value"):  # each parameter by itself
        return maybe_add_gradient_clipping(cfg, optimizer)
    if clip.CLIP_TYPE != "full_model":
        raise ConfigError(
            f"SOLVER.CLIP_GRADIENTS.CLIP_TYPE is {clip.CLIP_TYPE!r}; "
            "known are full_model, norm and value"
        )
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    clipping = FullModelClipping(parameters, clip.CLIP_VALUE, clip.NORM_TYPE)
    # With AMP the scaler unscales the gradients before it calls step, so this sees true values.
    optimizer.register_step_pre_hook(clipping)
    setattr(optimizer, "full_model_clipping", clipping)  # noqa: B010  (unknown to type checkers)
    return optimizer


class FullModelClipping:
    """Clips the norm of all gradients together, before a step of the optimiser.

    Attributes:
        last_norm: before the clipping, of the last step; None if there was none.
    """

    def __init__(
        self, parameters: list[nn.Parameter], max_norm: float, norm_type: float = 2.0
    ) -> None:
        self._parameters = parameters
        self._max_norm = max_norm
        self._norm_type = norm_type
        self.last_norm: torch.Tensor | None = None

    def __call__(self, *_: Any) -> None:
        self.last_norm = nn.utils.clip_grad_norm_(self._parameters, self._max_norm, self._norm_type)
