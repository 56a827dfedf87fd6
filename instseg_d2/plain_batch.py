"""Batches of Detectron2 as plain containers of tensors and back.

PyTorch reads such containers from a file without running anything that the file brings along.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints, PolygonMasks, RotatedBoxes
from torch import Tensor

#: The class by its name -> the attribute that holds all of its content.
STRUCTURES = {
    "BitMasks": (BitMasks, "tensor"),
    "Boxes": (Boxes, "tensor"),
    "Keypoints": (Keypoints, "tensor"),
    "PolygonMasks": (PolygonMasks, "polygons"),
    "RotatedBoxes": (RotatedBoxes, "tensor"),
}
#: Marks a dict that stands for another object: the value is the name of its class.
MARK = "__class__"


def to_plain(value: Any) -> Any:
    """A batch, or a part of one, as dicts, lists, tuples, numbers, texts, None and CPU tensors.

    What is none of these, nor of :data:`STRUCTURES`, ``Instances`` or a NumPy array, becomes its
    ``repr``.
    """
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()  # of a view the file would have all that it is part of
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic) and isinstance(value.item(), (bool, int, float, str)):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {MARK: "ndarray", "content": torch.from_numpy(np.ascontiguousarray(value))}
    if isinstance(value, Mapping):
        return {str(key): to_plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(to_plain, value)) if type(value) in (list, tuple) else repr(value)
    name = type(value).__name__
    if isinstance(value, Instances):
        fields = to_plain(value.get_fields())
        return {MARK: "Instances", "image_size": to_plain(tuple(value.image_size)), **fields}
    if name in STRUCTURES and isinstance(value, STRUCTURES[name][0]):
        return {MARK: name, "content": to_plain(getattr(value, STRUCTURES[name][1]))}
    return repr(value)


def from_plain(value: Any) -> Any:
    """The inverse of :func:`to_plain`, on the CPU.

    Raises:
        AssertionError, AttributeError, LookupError, TypeError, ValueError: it is no answer of that
            function.
    """
    if isinstance(value, (list, tuple)):
        return type(value)(map(from_plain, value))
    if not isinstance(value, dict):
        return value
    name = value.get(MARK)
    parts = {key: from_plain(part) for key, part in value.items() if key != MARK}
    if name is None:
        return parts
    if name == "ndarray":
        return parts["content"].numpy()
    if name == "Instances":
        return Instances(parts.pop("image_size"), **parts)
    return STRUCTURES[name][0](parts["content"])
