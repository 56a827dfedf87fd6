"""Random boxes: what proposals must be better than."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util

from .image_proposals import ImageId, ImageProposals, best_first

LEAST_SIDE = 8.0
"""Pixels, where the image has as many."""


def random_proposals(
    image_id: ImageId,
    image_size: tuple[int, int],
    count: int,
    rng: np.random.Generator,
    *,
    with_masks: bool = False,
) -> ImageProposals:
    """Boxes inside an image. Each side's logarithm is uniform, and so is the place; scores are
    normally distributed logits.

    Args:
        image_size: (height, width).
        with_masks: the boxes, rounded to pixels, are the masks too.
    """
    sides = np.array(image_size[::-1], np.float64)
    least = np.minimum(LEAST_SIDE, sides)
    sizes = np.exp(rng.uniform(np.log(least), np.log(sides), (count, 2)))
    corners = rng.uniform(0, 1, (count, 2)) * (sides - sizes)
    boxes = np.concatenate([corners, corners + sizes], axis=1)
    rles = None
    if with_masks:
        boxes = np.concatenate([np.floor(corners), np.ceil(corners + sizes)], axis=1)
        xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
        codes = mask_util.frPyObjects(xywh, *image_size) if count else []
        rles = [{"size": list(image_size), "counts": code["counts"].decode()} for code in codes]
    boxes = np.clip(boxes, 0, np.tile(sides, 2))
    return best_first(image_id, boxes, rng.normal(size=count), rles, are_logits=True)
