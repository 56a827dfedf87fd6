"""Instances in the form in which they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.structures import BoxMode, Instances

from .rle_masks import RLEMasks, segmentation_rle

Annotation = dict[str, Any]
Colour = tuple[float, float, float]
"""Red, green and blue in 0..1."""


@dataclass
class Drawable:
    """N instances in pixels of the image: boxes (N, 4) XYXY; masks (N, H, W) bool or None; colours
    or None for different ones."""

    boxes: np.ndarray
    masks: np.ndarray | None
    labels: list[str]
    colours: list[Colour] | None = None

    @classmethod
    def of_predictions(
        cls, predictions: Instances, names: Sequence[str] | None, min_score: float
    ) -> Drawable:
        """Those with a score (0..1) of at least ``min_score``; names are of the classes."""
        predictions = predictions.to("cpu")
        if predictions.has("scores"):
            predictions = predictions[predictions.scores >= min_score]
        count = len(predictions) if predictions.get_fields() else 0
        classes = predictions.pred_classes.tolist() if predictions.has("pred_classes") else None
        scores = predictions.scores.tolist() if predictions.has("scores") else None
        labels = [
            " ".join(
                ([_class_name(classes[index], names)] if classes is not None else [])
                + ([f"{scores[index]:.0%}"] if scores is not None else [])
            )
            for index in range(count)
        ]
        boxes = np.zeros((count, 4))
        if predictions.has("pred_boxes"):
            boxes = predictions.pred_boxes.tensor.numpy()
        masks = None
        if predictions.has("pred_masks"):
            masks = _bitmaps(predictions.pred_masks).numpy() > 0
        return cls(boxes, masks, labels)

    @classmethod
    def of_annotations(
        cls,
        annotations: Sequence[Annotation],
        names: Sequence[str] | None,
        height: int,
        width: int,
    ) -> Drawable:
        """Ground truth of an image of that size; boxes only if one has no mask."""
        labels = [
            _class_name(annotation["category_id"], names)
            + (" (crowd)" if annotation.get("iscrowd", 0) else "")
            for annotation in annotations
        ]
        if all("segmentation" in annotation for annotation in annotations):
            masks = np.zeros((len(annotations), height, width), bool)
            for mask, annotation in zip(masks, annotations, strict=True):
                mask[:] = _decode(annotation["segmentation"], height, width)
            return cls(np.zeros((len(annotations), 4)), masks, labels)
        boxes = [
            BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
            for annotation in annotations
        ]
        return cls(np.array(boxes, float), None, labels)

    def enlarged(self, factor: int) -> Drawable:
        """The same on an image of so many times the size."""
        masks = self.masks
        if masks is not None:
            masks = masks.repeat(factor, axis=1).repeat(factor, axis=2)
        return Drawable(self.boxes * factor, masks, self.labels, self.colours)


def _bitmaps(masks: Any) -> torch.Tensor:
    """(n, H, W) of a tensor, ``BitMasks`` or :class:`.RLEMasks`."""
    if isinstance(masks, RLEMasks):
        return masks.decode()
    return masks if isinstance(masks, torch.Tensor) else masks.tensor


def _decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Polygons, a run-length code or a mask -> (H, W), true inside."""
    if isinstance(segmentation, np.ndarray):
        return segmentation > 0
    mask: np.ndarray = mask_util.decode(segmentation_rle(segmentation, height, width)) > 0
    return mask


def _class_name(category: int, names: Sequence[str] | None) -> str:
    return names[category] if names and 0 <= category < len(names) else str(category)
