"""Greedy suppression of masks that are nearly the same as a better one."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util

from .rle_masks import RLEMasks


def mask_nms(masks: RLEMasks, threshold: float) -> list[int]:
    """Which masks to keep: each whose IoU with all better ones that are kept is at most
    ``threshold``.

    Args:
        masks: best first.

    Returns:
        indices, ascending.
    """
    if threshold >= 1 or len(masks) < 2:
        return list(range(len(masks)))
    may_overlap = highest_iou(masks) > threshold
    alive = np.ones(len(masks), bool)
    kept = []
    for index in range(len(masks)):
        if not alive[index]:
            continue
        kept.append(index)
        rivals = np.flatnonzero(alive & may_overlap[index])
        rivals = rivals[rivals > index]
        if len(rivals):
            others = [masks.rles[rival] for rival in rivals]
            ious = mask_util.iou(others, [masks.rles[index]], [0])[:, 0]
            alive[rivals[ious > threshold]] = False
    return kept


def highest_iou(masks: RLEMasks) -> np.ndarray:
    """What the IoU of every two masks is at most, judged by their areas and boxes: (n, n) float64.

    They share no more pixels than their boxes do, and no more than the smaller one has.
    """
    boxes = masks.bounding_boxes().tensor.numpy().astype(np.float64)
    areas = masks.area().double().numpy()
    corners = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    sides = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - corners
    shared = np.maximum(sides, 0).prod(-1)
    shared = np.minimum(shared, np.minimum(areas[:, None], areas[None]))
    bound: np.ndarray = shared / np.maximum(areas[:, None] + areas[None] - shared, 1)
    return bound
