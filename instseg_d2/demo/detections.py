"""What a model answers, in one form, and what of it a person wants to see.

A detection set is ``Instances`` with ``pred_boxes``, ``scores`` (0..1) and, as the model has them,
``pred_classes`` and ``pred_masks`` (:class:`.RLEMasks`), best first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import Boxes, Instances

from ..errors import ConfigError
from ..mask_encoding import encode_masks
from ..mask_nms import mask_nms
from ..rle_masks import RLEMasks

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True)
class Wanted:
    """Which detections are kept.

    Attributes:
        score_threshold: the final score must be above this.
        mask_nms: of two of one class whose masks have a higher IoU the worse is dropped; None: none
            is.
        min_area: smaller ones are dropped; in pixels of the image, of the mask or else of the box.
        top: the most of an image, the best; None: all.
    """

    score_threshold: float = 0.4
    mask_nms: float | None = None
    min_area: int = 0
    top: int | None = None

    def of(self, output: dict[str, Any], full_size: Size) -> Instances:
        """The detections that are left of a model's answer, on the CPU.

        Args:
            output: ``{"instances": Instances}`` or ``{"proposals": Instances}``; other fields of
                the instances are kept.
            full_size: of the image, where the instances may be of a reduced one.

        Raises:
            ConfigError: no such answer; ``mask_nms`` for a model without masks.
        """
        found = _as_detections(output).to("cpu")
        order = found.scores.sort(descending=True, stable=True).indices
        found = found[order[found.scores[order] > self.score_threshold]]
        if found.has("pred_masks") and not isinstance(found.pred_masks, RLEMasks):
            found.pred_masks = _encoded(found.pred_masks, found.image_size)
        if self.min_area:
            height, width = found.image_size
            scale = full_size[0] * full_size[1] / (height * width)
            found = found[(_areas(found) * scale >= self.min_area).nonzero()[:, 0]]
        if self.mask_nms is not None:
            found = found[_without_duplicates(found, self.mask_nms)]
        return found[: self.top] if self.top is not None else found


def _as_detections(output: dict[str, Any]) -> Instances:
    if "instances" in output:
        return output["instances"]
    if "proposals" not in output:
        raise ConfigError(
            f"the model answers with {', '.join(output) or 'nothing'}; instances or proposals can "
            "be drawn"
        )
    proposals = output["proposals"]
    result = Instances(proposals.image_size, **proposals.get_fields())
    result.pred_boxes = proposals.proposal_boxes
    result.scores = proposals.objectness_logits.float().sigmoid()
    return result


def _encoded(masks: Any, size: Size) -> RLEMasks:
    tensor = masks if isinstance(masks, torch.Tensor) else masks.tensor
    return RLEMasks(encode_masks(tensor).rles, size)


def _areas(found: Instances) -> torch.Tensor:
    """In pixels of the instances' image: (n,)."""
    if found.has("pred_masks"):
        return found.pred_masks.area().double()
    return found.pred_boxes.area().double()


def _without_duplicates(found: Instances, threshold: float) -> list[int]:
    """Indices, ascending; class by class, where there are classes."""
    if not found.has("pred_masks"):
        raise ConfigError("--mask-nms: this model makes boxes only, no masks")
    classes = torch.zeros(len(found), dtype=torch.int64)
    if found.has("pred_classes"):
        classes = found.pred_classes
    kept: list[int] = []
    for category in classes.unique():
        rows = (classes == category).nonzero()[:, 0]
        kept += rows[mask_nms(found.pred_masks[rows], threshold)].tolist()
    return sorted(kept)


def enlarged(found: Instances, full_size: Size) -> Instances:
    """Detections of a reduced image in pixels of the full one; one mask at a time is decoded."""
    if found.image_size == full_size:
        return found
    height, width = found.image_size
    result = Instances(full_size, **found.get_fields())
    boxes = Boxes(found.pred_boxes.tensor.clone())
    boxes.scale(full_size[1] / width, full_size[0] / height)
    result.pred_boxes = boxes
    if found.has("pred_masks"):
        result.remove("pred_masks")
        result.pred_masks = RLEMasks(
            [_enlarged_mask(rle, full_size) for rle in found.pred_masks], full_size
        )
    return result


def _enlarged_mask(rle: dict[str, Any], full_size: Size) -> dict[str, Any]:
    mask = mask_util.decode(rle)
    large = cv2.resize(mask, full_size[::-1], interpolation=cv2.INTER_NEAREST)
    (code,) = encode_masks(torch.from_numpy(large[None])).rles
    return code


def to_coco_results(
    found: Instances, image_id: int, category_ids: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Results in COCO's format.

    Args:
        found: detections.
        image_id: of the image.
        category_ids: by class; None: the classes are the ids. Without classes the id is 1.
    """
    boxes = found.pred_boxes.tensor.numpy().astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    classes = found.pred_classes.tolist() if found.has("pred_classes") else None
    results = []
    for index, (box, score) in enumerate(zip(boxes, found.scores.tolist(), strict=True)):
        category = 1
        if classes is not None:
            category = classes[index] if category_ids is None else category_ids[classes[index]]
        results.append(
            {
                "image_id": image_id,
                "category_id": category,
                "bbox": [round(value, 2) for value in box.tolist()],
                "score": round(score, 6),
            }
        )
    if found.has("pred_masks"):
        rles = encode_masks(found.pred_masks).rles
        for result, rle in zip(results, rles, strict=True):
            result["segmentation"] = rle
    return results
