"""How far the results of two ways to do the same are apart: 0 is equal, None not comparable."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor


def relative(first: Tensor, second: Tensor) -> float | None:
    """The greatest difference, as a share of the greatest value."""
    if first.shape != second.shape:
        return None
    greatest = float(second.abs().max()) or 1.0
    return float((first.float() - second.float()).abs().max()) / greatest


def mask_share(first: Sequence[Instances], second: Sequence[Instances]) -> float | None:
    """The share of mask pixels that differ; None for other numbers of instances or classes."""
    shares = []
    for one, other in zip(first, second, strict=True):
        if len(one) != len(other) or one.image_size != other.image_size:
            return None
        if one.has("pred_classes") and not torch.equal(one.pred_classes, other.pred_classes):
            return None
        if len(one):
            pairs = zip(one.pred_masks, other.pred_masks, strict=True)
            shares.append(sum(float((a != b).float().mean()) for a, b in pairs) / len(one))
    return sum(shares) / len(shares) if shares else 0.0


def greatest(first: dict[str, Any], second: dict[str, Any]) -> float | None:
    """The greatest difference of any number in two nested dicts; NaN counts as equal to NaN."""
    if first.keys() != second.keys():
        return None
    found = 0.0
    for key, value in first.items():
        other = second[key]
        if isinstance(value, dict):
            within = greatest(value, other)
            if within is None:
                return None
            found = max(found, within)
        elif not (value != value and other != other):
            found = max(found, abs(value - other))
    return found
