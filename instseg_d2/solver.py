"""Optimisers with the authors' parameter groups, and clipping of the whole model's gradient."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

from .errors import ConfigError

#: A parameter with one of these in its name gets no weight decay (norm scales and shifts, and the
#: embeddings of vision transformers).
NO_DECAY_NAMES = ("norm", "patch_embed", "cls_token")


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that ``SOLVER`` describes.

    ``OPTIMIZER`` "ADAMW" or "SGD" (any case); ``BACKBONE_MULTIPLIER`` scales the backbone's
    learning rate; ``CLIP_GRADIENTS`` with ``CLIP_TYPE`` "full_model" clips the norm of all
    gradients together, "norm" and "value" are Detectron2's.

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

    def clip_before_step(*_: Any) -> None:
        nn.utils.clip_grad_norm_(parameters, clip.CLIP_VALUE, clip.NORM_TYPE)

    # With AMP the scaler unscales the gradients before it calls step, so this sees true values.
    optimizer.register_step_pre_hook(clip_before_step)
    return optimizer
