"""Proposals of one image as arrays, and what can be wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from detectron2.structures import Instances

from ..errors import DataError, NonFiniteError

ImageId = int | str

RLE = dict[str, Any]
"""``size`` [height, width] and ``counts``, compressed, as text."""

_LEAST, _MOST = np.nextafter(0.0, 1.0), np.nextafter(1.0, 0.0)


@dataclass(frozen=True)
class ImageProposals:
    """Proposals of one image, the best first.

    Attributes:
        image_id: as in the data set.
        boxes: float32 (n, 4), XYXY in pixels of the image.
        scores: float (n,), descending. As a file has them: the pickle has logits, COCO's results
            have probabilities.
        rles: n masks, all of the image's size; None if there are boxes only.
        are_logits: whether ``scores`` are logits.
    """

    image_id: ImageId
    boxes: np.ndarray
    scores: np.ndarray
    rles: list[RLE] | None = None
    are_logits: bool = True

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def logits(self) -> np.ndarray:
        """The scores as logits, float64 (n,).

        Raises:
            DataError: they are no logits and not probabilities either.
        """
        scores = np.asarray(self.scores, np.float64)
        if self.are_logits:
            return scores
        if len(scores) and (scores.min() < 0 or scores.max() > 1):
            wrong = scores.min() if scores.min() < 0 else scores.max()
            raise DataError(
                f"image id {self.image_id!r} has a score of {wrong:g}; as probabilities, scores "
                "must be from 0 to 1 (--raw-scores takes them as they are)"
            )
        return logits_of(scores)

    @property
    def probabilities(self) -> np.ndarray:
        """The scores as probabilities, float64 (n,)."""
        scores = np.asarray(self.scores, np.float64)
        return probabilities_of(scores) if self.are_logits else scores

    def best(self, count: int | None) -> ImageProposals:
        """The first ``count``; None: all."""
        if count is None or count >= len(self):
            return self
        rles = None if self.rles is None else self.rles[:count]
        return replace(self, boxes=self.boxes[:count], scores=self.scores[:count], rles=rles)


def best_first(
    image_id: ImageId,
    boxes: np.ndarray,
    scores: np.ndarray,
    rles: Sequence[RLE] | None = None,
    *,
    are_logits: bool,
) -> ImageProposals:
    """Proposals of an image, in the order of their scores; those of equal scores as they came."""
    scores = scores if scores.dtype.kind == "f" else scores.astype(np.float64)
    order = np.argsort(-scores, kind="stable")
    return ImageProposals(
        image_id=image_id,
        boxes=boxes[order].astype(np.float32, copy=False),
        scores=scores[order],
        rles=None if rles is None else [rles[index] for index in order],
        are_logits=are_logits,
    )


def proposals_of_instances(image_id: ImageId, instances: Instances) -> ImageProposals:
    """What a model answered for an image.

    Args:
        instances: with ``proposal_boxes`` and ``objectness_logits``; its ``pred_masks``, if any,
            are ``RLEMasks``.

    Raises:
        NonFiniteError: a value is infinite or not a number.
    """
    boxes = instances.proposal_boxes.tensor.detach().float().cpu().numpy()
    scores = instances.objectness_logits.detach().float().cpu().numpy()
    rles = None
    if instances.has("pred_masks"):
        rles = [{"size": list(rle["size"]), "counts": _text(rle)} for rle in instances.pred_masks]
    problem = values_problem(boxes, scores)
    if problem is not None:
        raise NonFiniteError(f"image id {image_id!r}: the model's answer is unusable: {problem}")
    return best_first(image_id, boxes, scores, rles, are_logits=True)


def _text(rle: RLE) -> str:
    counts = rle["counts"]
    return counts.decode("ascii") if isinstance(counts, bytes) else counts


def values_problem(boxes: Any, scores: Any) -> str | None:
    """Why these cannot be the boxes and scores of an image, or None.

    They must be arrays of numbers, (n, 4) and (n,), all finite. Boxes are XYXY, and may be empty,
    but not inside out.
    """
    for name, array in (("boxes", boxes), ("scores", scores)):
        if not isinstance(array, np.ndarray):
            return f"its {name} are a {type(array).__name__}, expected an array"
        if array.dtype.kind not in "fiu":
            return f"its {name} are an array of type {array.dtype}, expected float32"
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        return f"its boxes have the shape {boxes.shape}, expected (n, 4)"
    if scores.ndim != 1:
        return f"its scores have the shape {scores.shape}, expected (n,)"
    if len(boxes) != len(scores):
        return f"it has {len(boxes)} boxes, but {len(scores)} scores"
    for name, array in (("box", boxes), ("score", scores)):
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, too
            finite = np.isfinite(array.astype(np.float32))
        finite = finite.all(axis=tuple(range(1, array.ndim)))
        if not finite.all():
            row = int(np.argmin(finite))
            return f"{name} {row} is infinite or not a number: {array[row].tolist()}"
    turned = (boxes[:, 2:] < boxes[:, :2]).any(1)
    if turned.any():
        row = int(np.argmax(turned))
        return (
            f"{int(turned.sum())} of its {len(boxes)} boxes end before they begin, for example box "
            f"{row}, {short_box(boxes[row])}: perhaps they are (x, y, width, height) where "
            "(x0, y0, x1, y1) is wanted"
        )
    return None


def short_box(box: np.ndarray) -> str:
    """A box for a message."""
    return "(" + ", ".join(f"{value:.6g}" for value in box.tolist()) + ")"


def logits_of(probabilities: np.ndarray) -> np.ndarray:
    """Logits of probabilities; finite for 0 and 1 too. float64, any shape."""
    values = np.clip(np.asarray(probabilities, np.float64), _LEAST, _MOST)
    logits: np.ndarray = np.log(values) - np.log1p(-values)
    return logits


def probabilities_of(logits: np.ndarray) -> np.ndarray:
    """The sigmoid in double precision, so that large logits keep their order. Any shape."""
    values = np.asarray(logits, np.float64)
    small = np.exp(-np.abs(values))
    probabilities: np.ndarray = np.where(values >= 0, 1, small) / (1 + small)
    return probabilities
