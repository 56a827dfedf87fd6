"""Which detections are true at an overlap of one half, which objects are found, and what is wrong
with the other detections.

D detections of one image, best scores first; G objects. Detections and objects of the same class
are matched as COCO's evaluation does, best scores first; so what a detection is matched with does
not depend on those with lower scores, and a threshold on the score may be chosen later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util

from ..rle_masks import segmentation_rle
from .results import MOST_PER_IMAGE, Results
from .truth import Truth, is_crowd

OVERLAP = 0.5
"""From here on a detection counts as the object."""

NEAR = 0.1
"""From here on a detection is a poor one of the object, below it has nothing to do with it."""

TRUE, IGNORED, FALSE = 0, 1, 2
"""Outcomes of detections; those of crowds are ignored."""

ERROR_KINDS = {
    "duplicate": "an object that a better detection of the same class has found already",
    "wrong class": f"overlaps an object of another class by {OVERLAP:.0%} or more",
    "poor mask": f"overlaps an object of its class, but by less than {OVERLAP:.0%}",
    "wrong and poor": f"overlaps only objects of other classes, by less than {OVERLAP:.0%}",
    "background": f"overlaps every object by less than {NEAR:.0%}",
}
"""Kinds of false detections, in the order in which they are asked for."""


@dataclass(frozen=True)
class ImageMatches:
    """The outcome for one image.

    Attributes:
        image_id: its id.
        detections: D results, best first, those beyond COCO's limit left out.
        objects: G annotations.
        scores: (D,).
        classes: (D,) indices of categories.
        outcomes: (D,) TRUE, IGNORED or FALSE.
        matched: (D,) index of the object that a true detection is, else -1.
        overlaps: (D, G), of masks or boxes; with crowds, the share of the detection.
        object_classes: (G,) indices of categories.
        crowd: (G,) bool.
    """

    image_id: Any
    detections: list[dict[str, Any]]
    objects: list[dict[str, Any]]
    scores: np.ndarray
    classes: np.ndarray
    outcomes: np.ndarray
    matched: np.ndarray
    overlaps: np.ndarray
    object_classes: np.ndarray
    crowd: np.ndarray

    def kept(self, min_score: float) -> int:
        """The number of detections with at least this score: the first ones."""
        return int((self.scores >= min_score).sum())

    def found(self, min_score: float) -> np.ndarray:
        """(G,) bool: objects that detections of at least this score find."""
        found = np.zeros(len(self.objects), bool)
        matched = self.matched[: self.kept(min_score)]
        found[matched[matched >= 0]] = True
        return found

    def missed(self, min_score: float) -> np.ndarray:
        """(G,) bool: likewise, those that they do not find; crowds are not to be found."""
        return ~self.found(min_score) & ~self.crowd

    def error_kind(self, index: int) -> str:
        """Of a false detection, one of :data:`ERROR_KINDS`."""
        regular = ~self.crowd
        overlaps = np.where(regular, self.overlaps[index], 0)
        own = np.where(self.object_classes == self.classes[index], overlaps, 0).max(initial=0)
        best = overlaps.max(initial=0)
        if own >= OVERLAP:
            return "duplicate"
        if best >= OVERLAP:
            return "wrong class"
        if own >= NEAR:
            return "poor mask"
        return "wrong and poor" if best >= NEAR else "background"

    def quality(self, min_score: float) -> float:
        """Panoptic quality of the image (Kirillov et al., arXiv 1801.00868), all classes taken
        together: sum of the true ones' overlaps / (true + false / 2 + missed / 2). NaN for an image
        with neither objects nor detections."""
        kept = self.kept(min_score)
        true = np.flatnonzero(self.outcomes[:kept] == TRUE)
        wrong = (self.outcomes[:kept] == FALSE).sum() + self.missed(min_score).sum()
        if not len(true) and not wrong:
            return float("nan")
        return float(self.overlaps[true, self.matched[true]].sum() / (len(true) + wrong / 2))


def match_images(truth: Truth, results: Results) -> Iterator[ImageMatches]:
    """All images, in the order of the annotation file."""
    indices = {category_id: index for index, category_id in enumerate(truth.names)}
    by_image = results.by_image()
    use_masks = results.has_masks and truth.has_masks
    for image_id, image in truth.images.items():
        yield _match(image, by_image.get(image_id, []), truth.objects[image_id], indices, use_masks)


def _match(
    image: dict[str, Any],
    detections: list[dict[str, Any]],
    objects: list[dict[str, Any]],
    indices: dict[Any, int],
    use_masks: bool,
) -> ImageMatches:
    order = np.argsort([-entry["score"] for entry in detections], kind="stable")
    detections = [detections[index] for index in order]
    classes = np.array([indices[entry["category_id"]] for entry in detections], int)
    counting = _best_of_each_class(classes)
    detections, classes = [detections[index] for index in counting], classes[counting]
    object_classes = np.array([indices[entry["category_id"]] for entry in objects], int)
    crowd = np.array([is_crowd(entry) for entry in objects], bool)
    overlaps = _overlaps(image, detections, objects, crowd, use_masks)
    outcomes, matched = match_detections(overlaps, classes, object_classes, crowd)
    scores = np.array([entry["score"] for entry in detections], float)
    return ImageMatches(
        image["id"], detections, objects, scores, classes, outcomes, matched, overlaps,
        object_classes, crowd,
    )  # fmt: skip


def _best_of_each_class(classes: np.ndarray) -> list[int]:
    """The detections within COCO's limit."""
    seen: dict[int, int] = {}
    chosen = []
    for index, category in enumerate(classes.tolist()):
        seen[category] = seen.get(category, 0) + 1
        if seen[category] <= MOST_PER_IMAGE:
            chosen.append(index)
    return chosen


def _overlaps(
    image: dict[str, Any],
    detections: Sequence[dict[str, Any]],
    objects: Sequence[dict[str, Any]],
    crowd: np.ndarray,
    use_masks: bool,
) -> np.ndarray:
    if not detections or not objects:
        return np.zeros((len(detections), len(objects)))
    if use_masks:
        size = image["height"], image["width"]
        first: Any = [entry["segmentation"] for entry in detections]
        second: Any = [segmentation_rle(entry["segmentation"], *size) for entry in objects]
    else:
        first = np.array([entry["bbox"] for entry in detections], float)
        second = np.array([entry["bbox"] for entry in objects], float)
    overlaps: np.ndarray = mask_util.iou(first, second, crowd.astype(np.uint8).tolist())
    return np.nan_to_num(overlaps)


def match_detections(
    overlaps: np.ndarray, classes: np.ndarray, object_classes: np.ndarray, crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Match as COCO does, at an overlap of :data:`OVERLAP`.

    Args:
        overlaps: (D, G), best scores first.
        classes: (D,).
        object_classes: (G,).
        crowd: (G,) bool.

    Returns:
        outcomes and indices of objects, (D,) int both, see :class:`ImageMatches`.
    """
    outcomes = np.full(len(classes), FALSE)
    matched = np.full(len(classes), -1)
    is_free = ~crowd
    for index, category in enumerate(classes):
        near = (overlaps[index] >= OVERLAP) & (object_classes == category)
        free = np.flatnonzero(near & is_free)
        if len(free):
            # Of equal overlaps COCO takes the last.
            best = free[len(free) - 1 - np.argmax(overlaps[index, free][::-1])]
            outcomes[index], matched[index], is_free[best] = TRUE, best, False
        elif (near & crowd).any():
            outcomes[index] = IGNORED
    return outcomes, matched
