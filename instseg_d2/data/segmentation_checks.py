"""What is wrong with the polygon, run-length code or box of one object.

pycocotools trusts its input: forged masks make it crash, or take all memory.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from instseg_d2.data.rle_batch import covered_pixels, size_problem
from instseg_d2.errors import short_repr

MAX_OUTLINE = 1_000_000
"""Pixels along the outline of one polygon."""


def rle_pixel_count(counts: str | bytes) -> int:
    """Number of pixels that a compressed run-length code covers, foreground and background.

    Raises:
        TypeError, ValueError: the code is damaged.
    """
    raw = counts.encode("ascii") if isinstance(counts, str) else counts
    if not isinstance(raw, bytes):
        raise TypeError(f"a {type(raw).__name__} for a run-length code")
    covered = int(covered_pixels([raw])[0]) if raw else 0
    if covered < 0:
        raise ValueError("the run-length code is damaged")
    return covered


def polygon_problem(polygon: Any) -> str | None:
    """What is wrong with one polygon, a flat list or an array of coordinates, or None."""
    problem = outline_problem(polygon)
    if problem is not None:
        return problem
    size = np.size(polygon) if isinstance(polygon, np.ndarray) else len(polygon)
    if size < 6 or size % 2:
        return f"a polygon has {size} coordinates; it needs an even number, at least 6 (3 points)"
    return None


def outline_problem(polygon: Any) -> str | None:
    """What would make pycocotools fail to draw this polygon, whatever its number of points, or
    None.

    It crashes the whole process on coordinates that are infinite or NaN, and takes a hundred bytes
    for each pixel of an outline.
    """
    try:
        total = polygon.sum() if isinstance(polygon, np.ndarray) else sum(polygon)
        if not math.isfinite(total):  # one sum finds every NaN and infinity
            return "a polygon has a coordinate that is infinite or not a number"
        if not len(polygon):
            return None
        if len(polygon) * (float(max(polygon)) - float(min(polygon))) <= MAX_OUTLINE:
            return None
        coordinates = np.asarray(polygon, np.float64)
    except OverflowError:
        return "a polygon has a coordinate that is too large"
    except (TypeError, ValueError):
        return "a polygon must be a flat list of numbers [x0, y0, x1, y1, ...]"
    points = coordinates[: len(coordinates) // 2 * 2].reshape(-1, 2)
    steps = np.abs(points - np.roll(points, 1, axis=0)).max(axis=1)
    if steps.sum() <= MAX_OUTLINE:
        return None
    return f"a polygon's outline is longer than {MAX_OUTLINE} pixels"


def is_within_a_pixel(polygons: list[list[float]], height: int, width: int) -> bool:
    """Whether each of an object's outlines has no more than a pixel of the image: they lie beside
    it, for example, or their coordinates are fractions of its size.

    Args:
        polygons: as :func:`polygon_problem` finds them usable.
    """
    for polygon in polygons:
        middle = len(polygon) // 4 * 2
        (left, right), (top, bottom) = (sorted((polygon[i], polygon[middle + i])) for i in (0, 1))
        if 0 <= left < right - 1 and 0 <= top < bottom and right <= width and bottom <= height:
            return False  # two points tell it of most objects, in a fraction of the time
        columns, rows = polygon[::2], polygon[1::2]
        across = min(max(columns), width) - max(min(columns), 0)
        down = min(max(rows), height) - max(min(rows), 0)
        if min(across, down) > 0 and max(across, down) > 1:
            return False
    return True


def crowd_problem(annotation: dict[str, Any]) -> str | None:
    """What is wrong with ``iscrowd``, which may be absent, or None.

    A text such as "0" would make a crowd of every object: none of them would be learnt.
    """
    flag = annotation.get("iscrowd")
    if flag is None or flag in (0, 1):  # False and True, too
        return None
    return f"'iscrowd' is {short_repr(flag)}, expected 0 or 1"


def box_problem(box: Any) -> str | None:
    """What is wrong with a box of any mode, or None."""
    is_box = isinstance(box, (list, tuple, np.ndarray)) and len(box) == 4
    if not is_box or outline_problem(box) is not None:
        return f"'bbox' is {short_repr(box)}; it needs 4 numbers"
    return None


def rle_problem(rle: dict[str, Any], height: int | None, width: int | None) -> str | None:
    """What is wrong with a run-length code for an image of this size (None: unknown), or None.

    Such a code can make pycocotools read and write beyond its memory.
    """
    if "size" not in rle or "counts" not in rle:
        return "the run-length code lacks 'size' or 'counts'"
    size, counts = rle["size"], rle["counts"]
    problem = size_problem(size)
    if problem is not None:
        return f"of the run-length code, {problem}"
    if height is not None and list(size) != [height, width]:
        return (
            f"the run-length code is for an image of (height, width) = {tuple(size)}, "
            f"but the image is {(height, width)}"
        )
    try:
        covered = _sum_of_runs(counts) if isinstance(counts, list) else rle_pixel_count(counts)
    except (OverflowError, TypeError, ValueError):
        return "the run-length code cannot be read"
    if covered != size[0] * size[1]:
        return (
            f"the run-length code covers {short_repr(covered)} pixels, the image has "
            f"{size[0] * size[1]}"
        )
    return None


def _sum_of_runs(runs: list[Any]) -> int:
    if runs and min(runs) < 0:
        raise ValueError("a run of negative length")
    total: int = sum(runs)
    return total
