"""Which model a dict of weights is of, in words, told by names and shapes alone."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from instseg_d2.weights.formats import (
    PVT_V2,
    TIMM_CSP_DARKNET,
    TIMM_DARKNET,
    TIMM_RESNET_D,
    TORCHVISION_RESNET,
    VGG_A,
    VGG_D,
    NameFormat,
    is_classifier,
    names_in_box_head,
    recognise_native,
)

State = Mapping[str, Tensor]
Depths = tuple[int, ...]

_RESNET_DEPTHS: dict[tuple[bool, Depths], int] = {
    (False, (2, 2, 2, 2)): 18,
    (False, (3, 4, 6, 3)): 34,
    (True, (3, 4, 6, 3)): 50,
    (True, (3, 4, 23, 3)): 101,
    (True, (3, 8, 36, 3)): 152,
}
"""(with bottlenecks, blocks per stage) -> layers, as ResNets are called."""

_PVT_VARIANTS: dict[Depths, str] = {
    (2, 2, 2, 2): "B1",
    (3, 4, 6, 3): "B2",
    (3, 4, 18, 3): "B3",
    (3, 8, 27, 3): "B4",
    (3, 6, 40, 3): "B5",
}
_NARROW_PVT_WIDTH = 32
"""Channels of the first stage of PVTv2-B0, which has the blocks of B1 and half its width."""

_CLS_SCORE = "decoder.inst_branch.cls_score.weight"
_IAM_CONV = "decoder.inst_branch.iam_conv.weight"
_ENCODE = "head.encode.weight"
_MASK = "head.mask.weight"


def describe_weights(state: State) -> str:
    """Say what model these weights are of.

    Args:
        state: weights under native names, of a backbone alone or of a whole model.

    Returns:
        For example "SparseInst, ResNet-50-vd, G-IAM, 80 classes, 100 masks"; of an unknown model
        the first parts of the names.
    """
    backbone = describe_backbone(state)
    if backbone is not None:
        classes = _classes_of_classifier(state)
        return backbone + (f" with a classifier of {classes} classes" if classes else "")
    within = {
        name.removeprefix("backbone."): value
        for name, value in state.items()
        if name.startswith("backbone.")
    }
    backbone = describe_backbone(within)
    if _CLS_SCORE in state and _IAM_CONV in state:
        return ", ".join(["SparseInst", backbone or "unknown backbone", *_sparseinst_facts(state)])
    if _ENCODE in state and _MASK in state:
        kind = "SharpMask" if any(name.startswith("refinement.") for name in state) else "DeepMask"
        return ", ".join([kind, backbone or "unknown trunk", *_deepmask_facts(state)])
    parts = sorted({name.split(".")[0] for name in state})
    shown = ", ".join(parts[:8]) + (", ..." if len(parts) > 8 else "")
    return f"{backbone} and other parts ({shown})" if backbone else f"unknown, of parts {shown}"


def describe_backbone(state: State) -> str | None:
    """For example "ResNet-50-vd with deformable convolutions"; None if the names are of no backbone
    here.

    Args:
        state: weights under native names, without ``backbone.``.
    """
    formats = recognise_native(state)
    if not formats:
        return None
    text = _describe(state, formats)
    return f"{text} with deformable convolutions" if _has_offsets(state) else text


def _describe(state: State, formats: Iterable[NameFormat]) -> str:
    if TORCHVISION_RESNET in formats:
        return _resnet(state, "res{}", range(2, 6))
    if TIMM_RESNET_D in formats:
        return _resnet(state, "layer{}", range(1, 5)) + "-vd"
    if TIMM_CSP_DARKNET in formats or TIMM_DARKNET in formats:
        name = "CSPDarknet" if TIMM_CSP_DARKNET in formats else "Darknet"
        depths = _depths(state, "stages.{}.blocks", range(5))
        return f"{name}53" if depths == (1, 2, 8, 8, 4) else f"{name}, blocks {depths}"
    for vgg, name in ((VGG_A, "VGG-11"), (VGG_D, "VGG-16")):
        if vgg in formats:
            return name
    assert PVT_V2 in formats, "a format that has no words here"
    return _pvt(state)


def _resnet(state: State, stage: str, numbers: Iterable[int]) -> str:
    numbers = tuple(numbers)
    first = stage.format(numbers[0])
    bottleneck = f"{first}.0.conv3.weight" in state
    depths = _depths(state, stage, numbers)
    layers = _resnet_layers(bottleneck, depths)
    groups = 1
    if bottleneck:
        width = _size(state, f"{first}.0.conv1.weight", 0)
        groups = width // _size(state, f"{first}.0.conv2.weight", 1)
    kind = "ResNeXt" if groups > 1 else "ResNet"
    return f"{kind}-{layers}" if layers else f"{kind}, blocks {depths}"


def _resnet_layers(bottleneck: bool, depths: Depths) -> int | None:
    """The number in a ResNet's name; the last stages may be absent, as in a trunk."""
    present = tuple(depth for depth in depths if depth)
    fitting = {
        layers
        for (kind, known), layers in _RESNET_DEPTHS.items()
        if kind == bottleneck and known[: len(present)] == present
    }
    return fitting.pop() if len(fitting) == 1 else None


def _pvt(state: State) -> str:
    depths = _depths(state, "block{}", range(1, 5))
    variant = _PVT_VARIANTS.get(depths)
    if variant == "B1" and _size(state, "patch_embed1.proj.weight", 0) == _NARROW_PVT_WIDTH:
        variant = "B0"
    # Only the linear form reduces keys and values in the last stage, too.
    linear = "-li" if "block4.0.attn.sr.weight" in state else ""
    return f"PVTv2-{variant}{linear}" if variant else f"PVTv2{linear}, blocks {depths}"


def _sparseinst_facts(state: State) -> list[str]:
    """The decoder in words, from the shapes of its layers."""
    # Of the branch's width, a group convolves 1/groups; cls_score reads groups times the width.
    groups = max(math.isqrt(_size(state, _CLS_SCORE, 1) // _size(state, _IAM_CONV, 1)), 1)
    kind = "G-IAM" if "decoder.inst_branch.fc.weight" in state else "base decoder"
    if "decoder.inst_branch.softmax_bias" in state:
        kind += " with softmax"
    return [
        kind,
        f"{_size(state, _CLS_SCORE, 0)} classes",
        f"{_size(state, _IAM_CONV, 0) // groups} masks",
    ]


def _deepmask_facts(state: State) -> list[str]:
    """The head in words, from the shapes of its layers."""
    side = math.isqrt(_size(state, _MASK, 0))
    return [
        f"windows of {_size(state, _ENCODE, 2)} cells a side",
        f"encodings of {_size(state, _ENCODE, 0)}",
        f"coarse masks of {side} x {side}",
    ]


def _classes_of_classifier(state: State) -> int | None:
    inner = names_in_box_head(state)  # VGG's classifier has three layers
    weights = (
        value
        for name, value in state.items()
        if is_classifier(name) and name.endswith(".weight") and value.dim() >= 2
        if name not in inner
    )
    return next((len(value) for value in weights), None)


def _size(state: State, name: str, axis: int) -> int:
    """A length of a tensor; 1 if there is no such tensor or axis."""
    shape = state[name].shape if name in state else ()
    return max(shape[axis], 1) if axis < len(shape) else 1


def _has_offsets(state: State) -> bool:
    return any(".conv2_offset." in name for name in state)


def _depths(state: State, stage: str, numbers: Iterable[int]) -> Depths:
    """How many blocks each stage has; ``stage`` is a name with {} for its number."""
    depths = []
    for number in numbers:
        blocks = re.compile(re.escape(stage.format(number)) + r"\.(\d+)\.")
        found = {match[1] for name in state if (match := blocks.match(name))}
        depths.append(len(found))
    return tuple(depths)
