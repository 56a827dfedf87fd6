"""Masks of one image as COCO's run-length codes: a thousandth of the memory of bitmaps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import Boxes
from torch import Tensor

RLE = dict[str, Any]
"""``size`` [height, width] and ``counts``, compressed (bytes or str), as pycocotools has it."""


class RLEMasks:
    """n masks; a field of ``Instances``, and what ``Visualizer`` draws as ``pred_masks``.

    It lies in the CPU's memory, wherever the other fields are. Iterating gives the codes.
    """

    def __init__(self, rles: Sequence[RLE], image_size: tuple[int, int]) -> None:
        """
        Args:
            rles: all of ``image_size``, (height, width).

        Raises:
            ValueError: one is of another size.
        """
        self.rles = list(rles)
        self.image_size = (int(image_size[0]), int(image_size[1]))
        for rle in self.rles:
            if tuple(rle["size"]) != self.image_size:
                raise ValueError(f"a mask of size {rle['size']} among those of {self.image_size}")

    def __len__(self) -> int:
        return len(self.rles)

    def __iter__(self) -> Iterator[RLE]:
        return iter(self.rles)

    def __getitem__(self, item: int | slice | Tensor | np.ndarray | Sequence[int]) -> RLEMasks:
        """Some of the masks, by whatever indexes the rows of a tensor; an int gives one mask."""
        rows = torch.arange(len(self))[_on_cpu(item)].reshape(-1).tolist()
        return RLEMasks([self.rles[row] for row in rows], self.image_size)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """(n,) of codes: how ``Visualizer`` reads its masks."""
        array = np.empty(len(self), object)
        array[:] = self.rles
        return array

    def __repr__(self) -> str:
        return f"RLEMasks(num_masks={len(self)}, image_size={self.image_size})"

    def to(self, *args: Any, **kwargs: Any) -> RLEMasks:
        """Itself: run-length codes have no device."""
        return self

    def decode(self) -> Tensor:
        """Bitmaps (n, height, width), bool. n times as many bytes as the image has pixels."""
        if not self.rles:
            return torch.zeros((0, *self.image_size), dtype=torch.bool)
        return torch.from_numpy(mask_util.decode(self.rles).transpose(2, 0, 1) > 0)

    def area(self) -> Tensor:
        """Pixels of each mask, (n,) int64."""
        return torch.tensor(mask_areas(self.rles), dtype=torch.int64)

    def bounding_boxes(self) -> Boxes:
        """The box of each mask, XYXY in pixels; zeros where a mask is empty."""
        boxes = np.asarray(mask_util.toBbox(self.rles), np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        return Boxes(torch.from_numpy(boxes))

    @staticmethod
    def cat(parts: Sequence[RLEMasks]) -> RLEMasks:
        """The masks of several parts of one image, as ``Instances.cat`` needs it."""
        return RLEMasks([rle for part in parts for rle in part], parts[0].image_size)


def mask_areas(rles: Sequence[RLE]) -> list[int]:
    """The pixels of each mask."""
    # One call for all fails in pycocotools 2.0.11 on NumPy 2 if there are more than 255.
    return [int(mask_util.area(rle)) for rle in rles]


def segmentation_rle(segmentation: Any, height: int, width: int) -> RLE:
    """A segmentation as COCO's annotations have it (polygons or a run-length code of either kind)
    as one compressed run-length code, for an image of this size in pixels."""
    if isinstance(segmentation, list):
        polygons = [np.asarray(polygon, float).reshape(-1).tolist() for polygon in segmentation]
        merged: RLE = mask_util.merge(mask_util.frPyObjects(polygons, height, width))
        return merged
    if isinstance(segmentation["counts"], list):
        code: RLE = mask_util.frPyObjects(segmentation, height, width)
        return code
    return segmentation


def _on_cpu(item: Any) -> Any:
    return item.cpu() if isinstance(item, Tensor) else item
