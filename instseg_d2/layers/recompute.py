"""Activations that are computed twice rather than kept: less memory for a little time.

"Training Deep Nets with Sublinear Memory Cost" (arXiv 1604.06174). The first layers of a ResNet
have the largest maps and few of the multiply-adds: they are where this costs least.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone.resnet import ResNet
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint

#: Children of a ResNet, those at stride 4: about a third of its activations at a tenth of the cost.
FIRST_STAGES = ("stem", "res2")


def recompute_first_stages(model: nn.Module) -> list[str]:
    """In training, do not keep what :data:`FIRST_STAGES` of Detectron2's ResNets compute, in place.

    Their modules, parameters, results and gradients stay what they are. Stages with batch norms
    that learn are left alone: computed twice, these would take in each batch twice.

    Returns:
        names of the stages that are recomputed.
    """
    found = []
    for prefix, module in model.named_modules():
        if isinstance(module, ResNet):
            for name in FIRST_STAGES:
                stage = getattr(module, name, None)
                if isinstance(stage, nn.Module) and not _differs_if_run_twice(stage):
                    stage.forward = _Recomputed(stage)
                    found.append(f"{prefix}.{name}".removeprefix("."))
    return found


class _Recomputed:
    """The ``forward`` of a module whose activations are computed again for the backward pass."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module

    def __call__(self, x: torch.Tensor) -> Any:
        forward = type(self._module).forward
        is_trained = any(parameter.requires_grad for parameter in self._module.parameters())
        if not (torch.is_grad_enabled() and is_trained):
            return forward(self._module, x)
        return checkpoint(forward, self._module, x, use_reentrant=False, preserve_rng_state=False)


def _differs_if_run_twice(module: nn.Module) -> bool:
    """Whether there are batch norms that learn, or dropout."""
    return any(
        isinstance(part, _NormBase | nn.modules.dropout._DropoutNd)
        and not isinstance(part, FrozenBatchNorm2d)
        for part in module.modules()
    )
