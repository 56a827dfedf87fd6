"""Batch norms as part of the convolutions before them.

With fixed statistics a batch norm is y = s * x + t for each channel. After a convolution with
weight w and bias b this is a convolution with weight s * w and bias s * b + t: the same function, a
pass over the map cheaper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from timm.layers import ConvNormAct
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from instseg_d2.layers.deform_conv import DeformConv, ModulatedDeformConv

#: Convolutions that are no more than that. Subclasses may change the weight before they use it.
PLAIN_CONVS = (nn.Conv2d, Conv2d, DeformConv, ModulatedDeformConv)

#: timm's modules -> (convolution, the norm that follows it), by name.
TIMM_PAIRS: dict[type[nn.Module], tuple[tuple[str, str], ...]] = {
    BasicBlock: (("conv1", "bn1"), ("conv2", "bn2")),
    Bottleneck: (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")),
    ConvNormAct: (("conv", "bn"),),
}


def fold_norms(model: nn.Module) -> int:
    """Fold batch norms with fixed statistics into the convolutions before them, in place.

    These are found in Detectron2's convolutions with a norm, next to each other in a
    ``nn.Sequential``, in timm's blocks, and where a module says so: an attribute
    ``conv_norm_pairs`` with the names of a convolution (or a ``nn.Sequential`` that ends with one)
    and of the norm that follows it. All others stay as they are.

    Args:
        model: in eval mode; the names of its parameters change.

    Returns:
        how many were folded.
    """
    places = Counter(id(child) for module in model.modules() for child in module.children())
    folded = 0
    for module in list(model.modules()):
        norm = getattr(module, "norm", None)
        has_weight = "weight" in module._parameters  # and does not compute it
        if isinstance(module, Conv2d | DeformConv) and has_weight and _is_fixed(norm):
            _fold(module, norm)
            module.norm = None
            folded += 1
        for conv_name, norm_name in list(_pairs(module)):
            conv, norm = _last(module.get_submodule(conv_name)), module.get_submodule(norm_name)
            # A convolution that stands in two places may be followed by two norms.
            if _is_fixed(norm) and _is_plain(conv) and places[id(conv)] == 1:
                _fold(conv, norm)
                # timm's norms contain the activation.
                module.add_module(norm_name, getattr(norm, "act", None) or nn.Identity())
                folded += 1
    return folded


def _pairs(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Names of the convolutions in a module that a norm follows, and of the norms."""
    yield from getattr(module, "conv_norm_pairs", ())
    for kind, pairs in TIMM_PAIRS.items():
        if isinstance(module, kind):
            yield from pairs
    if type(module) is nn.Sequential:
        names = [name for name, _ in module.named_children()]
        yield from pairwise(names)


def _last(module: nn.Module) -> nn.Module:
    """What comes last in a ``nn.Sequential``, or the module itself."""
    while type(module) is nn.Sequential and len(module):
        module = module[-1]
    return module


def _is_plain(conv: nn.Module) -> bool:
    """Whether a module is a convolution and nothing comes after it."""
    if type(conv) not in PLAIN_CONVS or "weight" not in conv._parameters:
        return False
    return getattr(conv, "norm", None) is None and getattr(conv, "activation", None) is None


def _is_fixed(norm: Any) -> bool:
    """Whether a module is a batch norm that does not look at the batch."""
    if isinstance(norm, FrozenBatchNorm2d):
        return True
    return isinstance(norm, _BatchNorm) and not norm.training and norm.running_mean is not None


@torch.no_grad()
def _fold(conv: Any, norm: Any) -> None:
    scale, shift = _scale_and_shift(norm)
    weight: Tensor = conv.weight
    if conv.bias is not None:
        shift = shift + scale * conv.bias.double()
    scaled = weight.double() * scale[:, None, None, None]
    conv.weight = nn.Parameter(scaled.to(weight.dtype), requires_grad=weight.requires_grad)
    conv.bias = nn.Parameter(shift.to(weight.dtype), requires_grad=weight.requires_grad)


def _scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """s and t, float64."""
    mean, variance = (getattr(norm, name).double() for name in ("running_mean", "running_var"))
    scale = (variance + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + norm.bias.double()
    return scale, shift
