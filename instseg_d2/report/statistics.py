"""Numbers gathered over all images: counts by class, calibration of scores, confusions, errors."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from .matching import ERROR_KINDS, FALSE, IGNORED, OVERLAP, TRUE, ImageMatches

NUM_BINS = 10


class Calibration(NamedTuple):
    """How often detections of a score are true.

    Attributes:
        counts: (10,) detections with scores of 0 to 0.1, 0.1 to 0.2, ...
        scores: (10,) their mean score, NaN where there are none.
        precisions: (10,) the share that is true, likewise.
        error: expected calibration error: the mean difference of the two, weighted by counts; NaN
            without detections.
    """

    counts: np.ndarray
    scores: np.ndarray
    precisions: np.ndarray
    error: float


class Operating(NamedTuple):
    """Precision, recall and their harmonic mean F1 at one threshold on the score."""

    threshold: float
    precision: float
    recall: float
    f1: float


class Statistics:
    """Add every image once; detections with a score below ``min_score`` count for calibration and
    thresholds only.

    Attributes:
        confusion: (K + 1, K + 1) int; row: the object's class, or last "none"; column: the class of
            the detection, or last "none". Objects and detections of the same class are matched
            first; the objects that are left, with false detections of other classes that overlap
            them by one half or more, best scores first. Ignored detections are left out.
        errors: kind -> number of false detections.
        objects, detections: (K,) int, crowds and ignored ones left out.
        images: (K,) int: with objects of the class.
        crowds, empty_images, images_without_detections: int.
    """

    def __init__(self, num_classes: int, min_score: float) -> None:
        self.min_score = min_score
        self.confusion = np.zeros((num_classes + 1, num_classes + 1), int)
        self.errors = Counter(dict.fromkeys(ERROR_KINDS, 0))
        self.objects = np.zeros(num_classes, int)
        self.images = np.zeros(num_classes, int)
        self.detections = np.zeros(num_classes, int)
        self.crowds = self.empty_images = self.images_without_detections = 0
        self._scores: list[np.ndarray] = []
        self._true: list[np.ndarray] = []

    def add(self, image: ImageMatches) -> None:
        """Count an image."""
        num_classes = len(self.objects)
        regular = image.object_classes[~image.crowd]
        self.objects += np.bincount(regular, minlength=num_classes)
        self.images += np.bincount(np.unique(regular), minlength=num_classes)
        self.crowds += int(image.crowd.sum())
        self.empty_images += not len(image.objects)
        self.images_without_detections += not image.kept(self.min_score)
        counted = image.outcomes != IGNORED
        self._scores.append(image.scores[counted])
        self._true.append(image.outcomes[counted] == TRUE)
        kept = image.kept(self.min_score)
        self.detections += np.bincount(image.classes[:kept][counted[:kept]], minlength=num_classes)
        self._add_confusion(image, kept)

    def _add_confusion(self, image: ImageMatches, kept: int) -> None:
        nothing = len(self.objects)
        left = image.missed(self.min_score)
        for index in range(kept):
            outcome, category = image.outcomes[index], image.classes[index]
            if outcome == TRUE:
                self.confusion[category, category] += 1
            if outcome != FALSE:
                continue
            self.errors[image.error_kind(index)] += 1
            overlaps = np.where(left, image.overlaps[index], 0)
            overlaps[image.object_classes == category] = 0
            if overlaps.max(initial=0) >= OVERLAP:
                best = int(overlaps.argmax())
                left[best] = False
                self.confusion[image.object_classes[best], category] += 1
            else:
                self.confusion[nothing, category] += 1
        for category in image.object_classes[left]:
            self.confusion[category, nothing] += 1

    def scored(self) -> tuple[np.ndarray, np.ndarray]:
        """All detections that count: scores and whether they are true, (D,), best first."""
        scores = np.concatenate([np.zeros(0), *self._scores])
        true = np.concatenate([np.zeros(0, bool), *self._true])
        order = np.argsort(-scores, kind="stable")
        return scores[order], true[order]

    def calibration(self, min_score: float = 0.0) -> Calibration:
        """Of the detections with at least ``min_score``."""
        scores, true = self.scored()
        chosen = scores >= min_score
        return calibrate(scores[chosen], true[chosen])

    def best_threshold(self) -> Operating | None:
        """Where F1, over all classes together, is highest; None without objects or detections."""
        scores, true = self.scored()
        total = int(self.objects.sum())
        if not len(scores) or not total:
            return None
        hits = true.cumsum()
        # Detections of equal scores are kept or left out together.
        is_last = np.append(scores[1:] != scores[:-1], True)
        f1 = np.where(is_last, 2 * hits / (np.arange(1, len(scores) + 1) + total), -1.0)
        best = int(f1.argmax())
        return Operating(
            float(scores[best]),
            float(hits[best] / (best + 1)),
            float(hits[best] / total),
            float(f1[best]),
        )

    def confused(self, limit: int) -> list[tuple[int, int, int]]:
        """The most frequent (object's class, detection's class, number), of different classes."""
        between = self.confusion[:-1, :-1].copy()
        np.fill_diagonal(between, 0)
        order = np.argsort(-between, axis=None, kind="stable")[:limit]
        pairs = (np.unravel_index(index, between.shape) for index in order)
        return [(int(i), int(j), int(between[i, j])) for i, j in pairs if between[i, j]]


def calibrate(scores: np.ndarray, true: np.ndarray) -> Calibration:
    """Bin detections by their scores in 0..1.

    Args:
        scores: (D,).
        true: (D,) bool.
    """
    places = np.clip(scores * NUM_BINS, 0, NUM_BINS - 1).astype(int)
    counts = np.bincount(places, minlength=NUM_BINS)

    def means(values: np.ndarray) -> Any:
        sums = np.bincount(places, weights=values, minlength=NUM_BINS)
        return np.divide(sums, counts, out=np.full(NUM_BINS, np.nan), where=counts > 0)

    mean_scores, precisions = means(scores), means(true.astype(float))
    error = float("nan")
    if len(scores):
        error = float(np.nansum(counts * np.abs(mean_scores - precisions)) / len(scores))
    return Calibration(counts, mean_scores, precisions, error)
