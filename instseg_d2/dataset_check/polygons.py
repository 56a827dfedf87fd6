"""Masks as polygons."""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import shapely

from .entries import MAX_NUMBER
from .masks import Box, MaskFacts, Size, beyond
from .problems import Place, Problems, shown

MAX_OVER_BORDER = 1.0
"""Pixels that polygons and boxes may reach beyond the image: tools round differently."""

NUMBERS = frozenset((int, float))

MAX_RASTER_PIXELS = 2**26
"""Larger images are not drawn on to find an area."""

CROSSING_SHARE, CROSSING_PIXELS = 0.05, 4.0
"""A border that crosses itself is more than a slip if so much of the area depends on how one reads
it."""

BATCH = 4096
"""Polygons whose borders are looked at together."""


def check_polygons(
    polygons: list[Any], size: Size | None, place: Place, problems: Problems
) -> list[np.ndarray]:
    """Report what is wrong with the polygons of an object, but for crossings.

    Returns:
        The usable ones, each (n, 2) float64 with n of at least 3.
    """
    usable = []
    for number, polygon in enumerate(polygons):
        points = _points(polygon, f"polygon {number}", place, problems)
        if points is None:
            continue
        usable.append(points)
        over = beyond(_box(points), size) if size is not None else 0.0
        if over == float("inf"):
            problems.add("polygon-outside-image", f"polygon {number}: {_extent(points)}", place)
        elif over > MAX_OVER_BORDER:
            problems.add(
                "polygon-over-border",
                f"polygon {number}: {_extent(points)}, {over:.1f} pixels beyond the image",
                place,
            )
    return usable


def _points(polygon: Any, name: str, place: Place, problems: Problems) -> np.ndarray | None:
    if not isinstance(polygon, list) or not NUMBERS.issuperset(map(type, polygon)):
        problems.add(
            "polygon-invalid",
            f"{name} is {shown(polygon)}, expected a flat list of numbers [x0, y0, x1, y1, ...]",
            place,
        )
        return None
    if len(polygon) % 2:
        problems.add("polygon-invalid", f"{name} has {len(polygon)} coordinates, an odd number",
                     place)  # fmt: skip
        return None
    if len(polygon) < 6:
        problems.add("polygon-too-short", f"{name} has {len(polygon) // 2} points", place)
        return None
    try:
        points = np.array(polygon, np.float64).reshape(-1, 2)
    except OverflowError:
        points = np.full((1, 2), np.inf)
    if not (np.abs(points) <= MAX_NUMBER).all():  # nor is NaN
        problems.add("number-not-finite", f"{name} has such coordinates", place)
        return None
    return points


def _box(points: np.ndarray) -> Box:
    x0, y0 = points.min(0).tolist()
    x1, y1 = points.max(0).tolist()
    return x0, y0, x1, y1


def _extent(points: np.ndarray) -> str:
    x0, y0, x1, y1 = _box(points)
    return f"x {x0:.1f} to {x1:.1f}, y {y0:.1f} to {y1:.1f}"


def signed_area(points: np.ndarray) -> float:
    """The area that the border goes around, in pixels; negative anticlockwise, in an image."""
    x, y = points.T
    # About the first point, because differences of large products are inexact.
    x, y = x - x[0], y - y[0]
    # Which is then (0, 0), so that the side back to it counts nothing.
    return 0.5 * float(np.dot(x[:-1], y[1:]) - np.dot(y[:-1], x[1:]))


def polygon_facts(polygons: list[np.ndarray]) -> MaskFacts:
    """What the union of polygons is like; at least one."""
    areas = [abs(signed_area(points)) for points in polygons]
    boxes = np.array([_box(points) for points in polygons])
    x0, y0 = boxes[:, :2].min(0).tolist()
    x1, y1 = boxes[:, 2:].max(0).tolist()
    return MaskFacts((x0, y0, x1, y1), max(areas), sum(areas), False)


def drawn_area(polygons: list[np.ndarray], size: Size | None) -> int | None:
    """Pixels of the mask that COCO's tools draw; None where that would take too much memory."""
    if size is None or size[0] * size[1] > MAX_RASTER_PIXELS:
        return None
    # The tools walk along every border, also outside of the image.
    if any(np.abs(points).max() > 4 * max(size) for points in polygons):
        return None
    codes = mask_util.frPyObjects([points.reshape(-1) for points in polygons], *size)
    return int(mask_util.area(mask_util.merge(codes)))


class Borders:
    """Looks for borders that touch or cross themselves, of many polygons at once.

    Call :meth:`finish` at the end.
    """

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._waiting: list[tuple[np.ndarray, Place]] = []

    def add(self, points: np.ndarray, place: Place) -> None:
        """Take note of a polygon, (n, 2) with n of at least 3."""
        if abs(signed_area(points)) < 1e-6 and _is_line(points):
            self._problems.add(
                "polygon-without-area",
                f"a polygon of {len(points)} points: {_extent(points)}",
                place,
            )
            return
        self._waiting.append((points, place))
        if len(self._waiting) == BATCH:
            self.finish()

    def finish(self) -> None:
        """Report on what is waiting."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        lengths = [len(points) for points, _ in waiting]
        rings = shapely.linearrings(
            np.concatenate([points for points, _ in waiting]),
            indices=np.repeat(np.arange(len(waiting)), lengths),
        )
        shapes = shapely.polygons(rings)
        for index in np.flatnonzero(~shapely.is_valid(shapes)):
            self._report(shapes[index], *waiting[index])

    def _report(self, shape: shapely.Polygon, points: np.ndarray, place: Place) -> None:
        where = shapely.is_valid_reason(shape).partition("[")[2].rstrip("]").replace(" ", ", ")
        around = abs(signed_area(points))
        # Drawn as COCO's tools do: a point is inside if a line from it crosses an odd number.
        odd = shapely.make_valid(shape).area
        difference = abs(around - odd)
        text = f"a polygon of {len(points)} points, at ({where})"
        if difference > max(CROSSING_SHARE * max(odd, around), CROSSING_PIXELS):
            text += f": it covers {odd:.0f} pixels, but goes around {around:.0f}"
            self._problems.add("polygon-self-crossing", text, place)
        else:
            self._problems.add("polygon-self-touching", text, place)


def _is_line(points: np.ndarray) -> bool:
    """Whether all points lie on a line, as far as floats can tell."""
    moved = points - points[0]
    farthest = moved[np.abs(moved).sum(1).argmax()]
    across = moved[:, 0] * farthest[1] - moved[:, 1] * farthest[0]
    return bool((np.abs(across) <= 1e-9 * (np.abs(farthest).max() ** 2 + 1e-300)).all())
