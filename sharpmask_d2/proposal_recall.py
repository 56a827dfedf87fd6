"""The recall of proposals on a whole data set, gathered image by image.

Every image is matched when it comes and then forgotten, so that a million proposals take no memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from instseg_d2.data.image_proposals import ImageProposals, values_problem
from instseg_d2.errors import DataError
from instseg_d2.rle_masks import RLE

from .recall import RecallCounts
from .recall_objects import GroundTruth, ImageObjects

BOXES, MASKS = "box_proposals", "mask_proposals"
"""The tasks that results are reported under; the first is Detectron2's own name."""


@dataclass
class ProposalRecall:
    """What is known of the images so far.

    Attributes:
        depth: an image's proposals beyond this rank are not looked at.
        counts: by task, of the images with proposals of that kind.
        num_proposals: image id as text -> number of its proposals, those beyond ``depth`` included.
        image_with_masks: of some image whose proposals came with masks, if any.
        image_without_masks: of some image whose proposals, at least one, had only boxes.
    """

    depth: int
    counts: dict[str, RecallCounts] = field(default_factory=dict)
    num_proposals: dict[str, int] = field(default_factory=dict)
    image_with_masks: Any = None
    image_without_masks: Any = None

    def __post_init__(self) -> None:
        self.counts = self.counts or {
            task: RecallCounts.empty(self.depth) for task in (BOXES, MASKS)
        }

    def add_image(self, objects: ImageObjects, proposals: ImageProposals) -> None:
        """Match the proposals of an image.

        Args:
            objects: of the image.
            proposals: in any order; those of equal scores keep theirs.

        Raises:
            DataError: the image has come before; numbers that are not finite; numbers of boxes,
                scores and masks that differ; masks of another size than the image.
        """
        self._check_new(objects.image_id)
        _check_proposals(objects, proposals)
        self.num_proposals[str(objects.image_id)] = len(proposals)
        order = np.argsort(-proposals.scores.astype(np.float64), kind="stable")[: self.depth]
        ious = box_ious(proposals.boxes[order], objects.boxes)
        self.counts[BOXES].add_image(ious, objects.areas)
        if proposals.rles is not None:
            self.image_with_masks = objects.image_id
            self._add_masks(objects, [proposals.rles[index] for index in order])
        elif len(proposals):
            self.image_without_masks = objects.image_id
        else:
            self._add_masks(objects, [])

    def _add_masks(self, objects: ImageObjects, rles: Sequence[RLE]) -> None:
        areas = objects.areas[objects.has_mask]
        ious = mask_ious(rles, objects.rles()) if rles else np.zeros((0, len(areas)))
        self.counts[MASKS].add_image(ious, areas)

    def _check_new(self, image_id: int | str) -> None:
        if str(image_id) in self.num_proposals:
            raise DataError(
                f"image id {image_id!r} has come twice, so its proposals would count twice. Give "
                "each image's proposals once and together."
            )

    def merge(self, other: ProposalRecall) -> None:
        """Add what another process found on other images.

        Raises:
            DataError: an image that both have.
        """
        for image_id in other.num_proposals:
            self._check_new(image_id)
        self.num_proposals.update(other.num_proposals)
        for task, counts in self.counts.items():
            counts += other.counts[task]
        if self.image_with_masks is None:
            self.image_with_masks = other.image_with_masks
        if self.image_without_masks is None:
            self.image_without_masks = other.image_without_masks

    def results(self, truth: GroundTruth) -> dict[str, RecallCounts]:
        """By task. The objects of images that have not come are among those not found.

        Raises:
            DataError: some images had masks, others only boxes.
        """
        if self.image_with_masks is not None and self.image_without_masks is not None:
            raise DataError(
                f"the proposals of image id {self.image_with_masks!r} have masks, those of image "
                f"id {self.image_without_masks!r} only boxes. Evaluate files of one kind."
            )
        rest = ProposalRecall(self.depth)
        for objects in truth:
            if str(objects.image_id) not in self.num_proposals:
                rest.add_image(objects, _nothing(objects.image_id))
        tasks = [BOXES] if self.image_with_masks is None else [BOXES, MASKS]
        for task in tasks:
            rest.counts[task] += self.counts[task]
        return {task: rest.counts[task] for task in tasks}


def box_ious(proposals: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """(D, G) float64.

    Args:
        proposals: (D, 4) XYXY.
        objects: (G, 4) float64, XYWH.
    """
    corners = proposals.astype(np.float64)
    sides = corners[:, 2:] - corners[:, :2]
    return _ious(np.hstack([corners[:, :2], sides]), objects)


def mask_ious(proposals: Sequence[RLE], objects: Sequence[RLE]) -> np.ndarray:
    """(D, G) float64."""
    return _ious(list(proposals), list(objects))


def _ious(proposals: Any, objects: Any) -> np.ndarray:
    if not len(proposals) or not len(objects):
        return np.zeros((len(proposals), len(objects)))
    ious: np.ndarray = mask_util.iou(proposals, objects, [0] * len(objects))
    return ious


def _nothing(image_id: int | str) -> ImageProposals:
    return ImageProposals(image_id, np.zeros((0, 4), np.float32), np.zeros(0, np.float32))


def _check_proposals(objects: ImageObjects, proposals: ImageProposals) -> None:
    problem = values_problem(proposals.boxes, proposals.scores)
    rles = proposals.rles
    if problem is None and rles is not None and len(rles) != len(proposals):
        problem = f"it has {len(proposals)} boxes, but {len(rles)} masks"
    if problem is not None:
        raise DataError(
            f"the proposals of image id {objects.image_id!r} cannot be used: {problem}. Has the "
            "model diverged, or is the file damaged?"
        )
    for rle in rles or ():
        if tuple(rle["size"]) != objects.image_size:
            raise DataError(
                f"image id {objects.image_id!r} has a mask of (height, width) "
                f"{tuple(rle['size'])}, but the image is {objects.image_size}. Masks must be of "
                "the original image's size."
            )
