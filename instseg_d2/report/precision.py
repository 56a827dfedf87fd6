"""Average precision in all the ways in which COCO's evaluation can be read.

All values are percentages; NaN for what no object is there for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..coco_metrics import CocoFigures, CocoTruth, Task
from ..errors import DependencyError
from .results import Results
from .truth import SIZES, Truth

IOUS = np.linspace(0.5, 0.95, 10)

RECALLS = np.linspace(0, 1, 101)

TASK_NAMES: dict[Task, str] = {"segm": "Mask", "bbox": "Box", "boundary": "Boundary"}


class Precision:
    """One task's figures."""

    def __init__(self, figures: CocoFigures) -> None:
        self.stats = np.where(figures.stats < 0, np.nan, 100 * figures.stats)
        precision = figures.eval["precision"]
        self._precision = np.where(precision < 0, np.nan, 100 * precision)[..., -1]

    def overall(self) -> float:
        """AP."""
        return float(self.stats[0])

    def at_iou(self, index: int) -> float:
        """AP at one of :data:`IOUS`."""
        return _mean(self._precision[index, :, :, 0])

    def of_class(self, index: int, iou: int | None = None) -> float:
        """AP of a category, at all or at one of :data:`IOUS`."""
        values = self._precision[:, :, index, 0]
        return _mean(values if iou is None else values[iou])

    def of_size(self, size: str) -> float:
        """AP of "small", "medium" or "large" objects."""
        return float(self.stats[3 + SIZES.index(size)])

    def recall_of_size(self, size: str) -> float:
        """AR likewise."""
        return float(self.stats[9 + SIZES.index(size)])

    def recall(self) -> float:
        """AR with the most detections that count."""
        return float(self.stats[8])

    def curve(self, iou: int, index: int | None = None) -> np.ndarray:
        """(101,) precision at :data:`RECALLS`; the mean over categories, or of one."""
        values = self._precision[iou, :, :, 0]
        if index is not None:
            curve: np.ndarray = values[:, index]
            return curve
        known = ~np.isnan(values).all(axis=0)
        if not known.any():
            return np.full(len(RECALLS), np.nan)
        mean: np.ndarray = values[:, known].mean(axis=1)
        return mean


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def evaluate(
    truth: Truth,
    results: Results,
    *,
    boundary: bool = True,
    progress: Callable[[str], None] = lambda text: None,
) -> tuple[dict[Task, Precision], list[str]]:
    """Evaluate as :class:`.FastCOCOEvaluator` does.

    Args:
        boundary: compute boundary AP too, which takes longer than the others.
        progress: is told what is done next.

    Returns:
        figures by task, masks first; and remarks on what is not there.
    """
    remarks = []
    tasks: list[Task] = ["bbox"]
    if results.has_masks and truth.has_masks:
        tasks = ["segm", "bbox", *(["boundary"] if boundary else [])]  # type: ignore[list-item]
    elif results.has_masks:
        remarks.append("The annotations lack masks, so detections are compared by their boxes.")
    elif results.entries:
        remarks.append("The results have boxes and no masks, so they are compared by their boxes.")
    if not results.entries or not truth.content["annotations"]:
        return {}, remarks
    coco = CocoTruth(truth.content)
    figures = {}
    for task in tasks:
        progress(f"{TASK_NAMES[task]} AP")
        try:
            figures[task] = Precision(coco.figures(results.entries, task))
        except DependencyError as error:
            remarks.append(f"There is no boundary AP: {error}.")
    return figures, remarks
