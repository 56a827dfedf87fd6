"""Where the pixels of a mask lie, from its sums over rows and columns."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class MaskExtent:
    """Box and medians of a mask, without a list of its pixels: those are millions in a large image.

    Attributes:
        row_counts: (H,) int32, the pixels of the mask in each row.
        column_counts: (W,) int32, likewise.
    """

    row_counts: np.ndarray
    column_counts: np.ndarray

    @classmethod
    def of(cls, mask: np.ndarray) -> MaskExtent:
        """
        Args:
            mask: (H, W) bool, neither side 0.
        """
        pixels = mask.view(np.uint8)
        rows, columns = (
            cv2.reduce(pixels, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel() for axis in (1, 0)
        )
        return cls(rows, columns)

    @property
    def area(self) -> int:
        """The number of pixels."""
        return int(self.row_counts.sum())

    @property
    def box(self) -> tuple[slice, slice]:
        """The rows and the columns from the first to the last with a pixel; both empty if there is
        none."""
        rows, columns = map(_occupied, (self.row_counts, self.column_counts))
        return rows, columns

    @property
    def median(self) -> tuple[float, float]:
        """x and y as ``np.median`` has them of all pixels, of which there is at least one."""
        return _median(self.column_counts), _median(self.row_counts)


def _occupied(counts: np.ndarray) -> slice:
    places = np.flatnonzero(counts)
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


def _median(counts: np.ndarray) -> float:
    """Of the list that has each index so many times."""
    ends = counts.cumsum(dtype=np.int64)
    middle = (ends[-1] - 1) // 2, ends[-1] // 2  # the same one where their number is odd
    return float(np.searchsorted(ends, middle, side="right").mean())
