"""Whether an exported graph answers as the model does, on sizes that it was not exported with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.structures import Instances
from tabulate import tabulate

from instseg_d2.data.shapes import ShapesSpec, render_image

from .formats import Runner
from .settings import OUTPUTS, Tolerances

#: For people, where no mask that was compared has an outline.
NO_OUTLINES = (
    "Note: all masks that were compared are empty or full, so that their overlap proves nothing. "
    "Are these the weights that you trained?"
)


@dataclass(frozen=True)
class Comparison:
    """One batch.

    Attributes:
        batch: its shape, (B, H, W).
        instances: of the model.
        score: largest difference of the scores of the same instance.
        mask_iou: smallest overlap of its two masks.
        unmatched: instances of one that the other lacks, or has with another label; of those whose
            score is a tolerance within the limit of what is kept, none.
        outlined: of the model's instances, those whose mask is neither empty nor the whole image,
            so that an outline was compared.
    """

    batch: tuple[int, int, int]
    instances: int
    score: float
    mask_iou: float
    unmatched: int
    outlined: int

    def holds(self, tolerances: Tolerances) -> bool:
        """Whether model and graph agree."""
        return (
            not self.unmatched
            and self.score <= tolerances.score
            and self.mask_iou > tolerances.mask_iou
        )


def pictures(batch: int, height: int, width: int) -> np.ndarray:
    """(batch, height, width, 3) uint8 RGB, of the embedded data set: the same at every call."""
    spec = ShapesSpec(image_size=256)
    drawn = (render_image(spec, "val", 1 + index)[0] for index in range(batch))
    return np.stack([cv2.resize(image, (width, height)) for image in drawn])


def compare(
    model: Any, run: Runner, images: np.ndarray, tolerances: Tolerances, *, is_bgr: bool
) -> Comparison:
    """Model and graph on one batch.

    Args:
        model: gives ``instances``, with the thresholds that the graph has.
        run: the graph.
        images: (B, H, W, 3) uint8 RGB.
        tolerances: to tell which instances are the same.
        is_bgr: the model reads BGR.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(images[..., ::-1] if is_bgr else images))
    with torch.no_grad():
        answers = model([{"image": image} for image in pixels.permute(0, 3, 1, 2)])
    outputs = dict(zip(OUTPUTS, run(images), strict=True))
    scores, ious, total, unmatched, outlined = [0.0], [1.0], 0, 0, 0
    for index, answer in enumerate(answers):
        expected = answer["instances"]
        count = int(outputs["counts"][index])
        found = {name: outputs[name][index][:count] for name in OUTPUTS[:4]}
        differences, overlaps, lonely = match(expected, found, tolerances.score)
        full = count == outputs["scores"].shape[1]
        limit = float(found["scores"].min(initial=1.0)) if full else 0.0
        options = model.postprocess_options
        limit = max(limit, options.cls_threshold, options.score_threshold) + tolerances.score
        unmatched += sum(score > limit for score in lonely)
        total += len(expected)
        outlined += int(has_outline(expected.pred_masks.numpy()).sum())
        scores += differences
        ious += overlaps
    return Comparison(images.shape[:3], total, max(scores), min(ious), unmatched, outlined)


def match(
    expected: Instances, found: dict[str, np.ndarray], tolerance: float
) -> tuple[list[float], list[float], list[float]]:
    """Pair instances of equal label and nearly equal score by the overlap of their masks.

    Args:
        expected: of the model.
        found: ``scores``, ``labels`` and ``masks`` of the graph.
        tolerance: of the scores.

    Returns:
        of the pairs the differences of the scores and the overlaps of the masks; of all others, of
        both sides, the scores.
    """
    overlap = mask_ious(expected.pred_masks.numpy(), found["masks"])
    difference = np.abs(expected.scores.numpy()[:, None] - found["scores"][None])
    same = expected.pred_classes.numpy()[:, None] == found["labels"][None]
    overlap = np.where(same & (difference <= tolerance), overlap, -1)
    differences, overlaps = [], []
    left, right = set(range(overlap.shape[0])), set(range(overlap.shape[1]))
    order = np.argsort(-overlap, axis=None, kind="stable")
    for row, column in zip(*np.unravel_index(order, overlap.shape), strict=True):
        if overlap[row, column] < 0:
            break
        if row in left and column in right:
            left.remove(row)
            right.remove(column)
            differences.append(float(difference[row, column]))
            overlaps.append(float(overlap[row, column]))
    lonely = [float(expected.scores[row]) for row in left]
    return differences, overlaps, lonely + [float(found["scores"][column]) for column in right]


def mask_ious(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU (n, m) of masks (n, H, W) and (m, H, W) bool; that of two empty masks is 1."""
    flat = [
        masks.reshape(len(masks), math.prod(masks.shape[1:])).astype(np.float32)
        for masks in (first, second)
    ]
    shared = flat[0] @ flat[1].T
    union = flat[0].sum(1)[:, None] + flat[1].sum(1)[None] - shared
    return np.where(union > 0, shared / np.maximum(union, 1), 1.0)


def has_outline(masks: np.ndarray) -> np.ndarray:
    """Which masks (n, H, W) bool are neither empty nor full: (n,) bool."""
    area = math.prod(masks.shape[1:])
    inside = np.count_nonzero(masks.reshape(len(masks), area), axis=1)
    return (inside > 0) & (inside < area)


def table(comparisons: Sequence[Comparison], tolerances: Tolerances) -> str:
    """For people."""
    rows = [
        [
            " x ".join(map(str, result.batch)),
            result.instances,
            f"{result.score:.1e}",
            f"{result.mask_iou:.4f}",
            result.unmatched,
            "yes" if result.holds(tolerances) else "NO",
        ]
        for result in comparisons
    ]
    headers = ["batch x height x width", "instances", "score differs by", "least mask IoU"]
    return tabulate(rows, [*headers, "unmatched", "holds"], disable_numparse=True)
