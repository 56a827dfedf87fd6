"""What is known of a mask without drawing it."""

from __future__ import annotations

from typing import NamedTuple

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels; (0, 0) is the top left corner of the first pixel."""

Size = tuple[int, int]
"""Height and width in pixels."""


class MaskFacts(NamedTuple):
    """A mask's extent.

    Attributes:
        box: around it; None if it is empty.
        least, most: bounds of its area in pixels. Equal, if ``is_exact``; else those of its largest
            polygon and of the sum of all, which may overlap.
        is_exact: they are counts of pixels.
    """

    box: Box | None
    least: float
    most: float
    is_exact: bool


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes; 0 if both are empty."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return shared / union if union > 0 else 0.0


def beyond(box: Box, size: Size) -> float:
    """By how many pixels a box reaches beyond the image; infinite if all of it lies outside."""
    height, width = size
    x0, y0, x1, y1 = box
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        return float("inf")
    return max(-x0, -y0, x1 - width, y1 - height, 0.0)
