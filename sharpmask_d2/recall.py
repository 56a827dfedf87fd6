"""How many objects class-agnostic proposals find: recall by IoU, area and number of proposals.

The definition is that of COCO's evaluation without categories (pycocotools' ``COCOeval``,
``useCats = 0``), and so are the numbers. Proposals are taken in the order of their scores; each
finds, among the objects not yet found that it overlaps enough, the one that it overlaps most.

Two facts make that cheap. Which objects the first k proposals find does not depend on the later
ones: one matching tells, for every object, the rank of the proposal that finds it, and with it the
recall at every number of proposals. And objects that do not count (crowds, and those outside the
area range) get only what no other object wants: leaving them out changes no recall.

Shapes: D proposals, G objects, A area ranges, T IoU thresholds, K = ``depth`` proposals at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

#: As pycocotools computes them, to the last bit.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
#: Name -> least and greatest area of an object in pixels, both included.
AREA_RANGES: dict[str, tuple[float, float]] = {
    "all": (0.0, 1e5**2),
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, 1e5**2),
}
AUC_PROPOSALS = 1000
"""The papers' area under the curve ends at this number of proposals."""


def finders(ious: np.ndarray, takes_part: np.ndarray) -> np.ndarray:
    """The rank of the proposal that finds each object, for each IoU threshold.

    Greedy: the best proposal finds the object that it overlaps most (of equal ones the last), if by
    at least the threshold; that object is gone for the others. Then the second best, and so on.

    Args:
        ious: (D, G) float64, the best proposal first.
        takes_part: (A, G) bool: A independent matchings, each with its own objects.

    Returns:
        (A, T, G) int64, 0 for the best proposal; D for objects that no proposal finds or that do
        not take part.
    """
    # A proposal that overlaps nothing enough finds nothing at any threshold.
    useful = np.flatnonzero((ious >= IOU_THRESHOLDS[0]).any(axis=1))
    ranks = np.append(useful, len(ious))
    return ranks[_finders_among(ious[useful], takes_part)]


def _finders_among(ious: np.ndarray, takes_part: np.ndarray) -> np.ndarray:
    """:func:`finders`, event by event: all matchings and thresholds jump at once to the next
    proposal that finds something, so that there are at most G rounds."""
    num_proposals, num_objects = ious.shape
    upcoming = _next_hits(ious)
    thresholds = np.arange(len(IOU_THRESHOLDS))
    shape = (len(takes_part), len(thresholds), num_objects)
    free = np.broadcast_to(takes_part[:, None], shape).copy()
    found = np.full(shape, num_proposals)
    start = np.zeros(shape[:2], np.int64)  # proposals before this one are done
    while free.any():
        hits = np.where(free, upcoming[thresholds, start], num_proposals)
        rank = hits.min(axis=2)
        matching, threshold = np.nonzero(rank < num_proposals)
        if not len(matching):
            break
        now = rank[matching, threshold]
        wanted = hits[matching, threshold] == now[:, None]
        overlap = np.where(wanted, ious[now], -1)
        best = num_objects - 1 - overlap[:, ::-1].argmax(axis=1)  # the last of equal ones
        found[matching, threshold, best] = now
        free[matching, threshold, best] = False
        start = rank + 1
    return found


def _next_hits(ious: np.ndarray) -> np.ndarray:
    """(T, D + 2, G): the first proposal from that row on whose IoU reaches the threshold, else D.
    Two rows lie behind the last proposal."""
    num_proposals, num_objects = ious.shape
    # pycocotools asks a bit less of a threshold of 1, which is not among ours.
    hit = ious >= IOU_THRESHOLDS[:, None, None]
    shape = (len(IOU_THRESHOLDS), num_proposals + 2, num_objects)
    ranks = np.full(shape, num_proposals, np.int32)
    np.copyto(ranks[:, :-2], np.arange(num_proposals, dtype=np.int32)[:, None], where=hit)
    upcoming: np.ndarray = np.minimum.accumulate(ranks[:, ::-1], axis=1)[:, ::-1]
    return upcoming


@dataclass
class RecallCounts:
    """Which rank found how many objects: all of a data set's recalls, in a fixed small memory.

    Counts of parts of a data set add up with ``+=``.

    Attributes:
        found: (A, T, K) int64: objects of each area range that the proposals of each rank found.
        objects: (A,) int64: objects of each area range.
    """

    found: np.ndarray
    objects: np.ndarray

    @classmethod
    def empty(cls, depth: int) -> RecallCounts:
        """Of no image yet.

        Args:
            depth: proposals of an image beyond this rank are not counted.
        """
        shape = (len(AREA_RANGES), len(IOU_THRESHOLDS), depth)
        return cls(np.zeros(shape, np.int64), np.zeros(len(AREA_RANGES), np.int64))

    @property
    def depth(self) -> int:
        """The greatest number of proposals whose recall is known."""
        return int(self.found.shape[2])

    def add_image(self, ious: np.ndarray, areas: np.ndarray) -> None:
        """Match one image.

        Args:
            ious: (D, G) float64 of its proposals, best first, and its objects without crowds, in
                pycocotools' order (by category id, then as in the annotation file).
            areas: (G,) of the objects, as annotated.
        """
        low, high = np.array(list(AREA_RANGES.values())).T[:, :, None]
        in_range = (areas >= low) & (areas <= high)
        self.objects += in_range.sum(axis=1)
        if not ious.size:
            return
        ranks = finders(ious[: self.depth], in_range)
        area, threshold, _ = found = np.nonzero(ranks < min(len(ious), self.depth))
        np.add.at(self.found, (area, threshold, ranks[found]), 1)

    def __iadd__(self, other: RecallCounts) -> RecallCounts:
        self.found += other.found
        self.objects += other.objects
        return self

    def recalls(self, area: str = "all") -> np.ndarray:
        """(T, K) recall from 0 to 1 at each threshold with the best 1, 2, ..., K proposals of each
        image; nan without objects."""
        index = list(AREA_RANGES).index(area)
        found = self.found[index].cumsum(axis=1)
        objects = self.objects[index]
        return found / objects if objects else np.full(found.shape, np.nan)

    def average_recalls(self, area: str = "all") -> np.ndarray:
        """(K,) AR, the mean recall over the thresholds, with the best 1, 2, ..., K proposals."""
        curve: np.ndarray = self.recalls(area).mean(axis=0)
        return curve


def area_under_curve(average_recalls: np.ndarray) -> float:
    """The papers' AUC: the mean height of AR over the logarithm of the number of proposals.

    AR(k) is known at every whole k from 1 to K (1000 in the papers) and is joined by straight lines
    over log10(k); the integral over log10(k) from 0 to log10(K) is divided by log10(K), so that
    finding everything with the first proposal is 1.

    Args:
        average_recalls: (K,) AR with the best 1, 2, ..., K proposals; K at least 2.
    """
    counts = np.log10(np.arange(1, len(average_recalls) + 1))
    heights = (average_recalls[1:] + average_recalls[:-1]) / 2
    return float((heights * np.diff(counts)).sum() / counts[-1])
