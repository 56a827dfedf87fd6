"""The annotations: each is looked at as a whole, so that all of its problems are reported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .boxes import check_box, compare_with_mask
from .entries import ImageEntry, Uniqueness, checked_id, is_finite, is_number, report_missing
from .masks import Box, MaskFacts, Size
from .polygons import Borders, check_polygons, drawn_area, polygon_facts
from .problems import Place, Problems, shown
from .run_length_masks import check_rle

TINY_AREA = 4.0
"""Polygons around fewer pixels may cover none when they are drawn."""

AREA_TOLERANCE = 0.1
"""Of ``area``, relative; it only sorts objects into small, medium and large."""


class LabelledObject(NamedTuple):
    """An annotation that can be used: image and category are known, and it has a box or a mask.

    Attributes:
        position: in the list of annotations.
        image: in the list of images.
        category_id: a key of the categories.
        is_crowd: a crowd region.
        box: the mask's or, without one, the annotation's.
        area: of the mask or, without one, of the box, in pixels.
        has_mask: whether there is a mask with a pixel.
    """

    position: int
    image: int
    category_id: Any
    is_crowd: bool
    box: Box
    area: float
    has_mask: bool


class AnnotationCheck:
    """Looks at annotations one after the other. Call :meth:`finish` at the end."""

    def __init__(
        self, images: list[ImageEntry], categories: Mapping[Any, str], problems: Problems
    ) -> None:
        self._images: dict[Any, ImageEntry] = {}
        for image in images:
            if image.image_id is not None:
                self._images.setdefault(image.image_id, image)
        self._as_text = {str(image_id): image_id for image_id in self._images}
        self._categories = categories
        self._problems = problems
        self._borders = Borders(problems)
        self._ids = Uniqueness("duplicate-annotation-id", "annotation id", problems)

    def finish(self) -> None:
        self._borders.finish()

    def look_at(self, annotation: dict[str, Any], position: int) -> LabelledObject | None:
        """Report the problems of an annotation; None if it cannot be used.

        Args:
            annotation: as the JSON has it.
            position: in the list of annotations.
        """
        place, image = self._identify(annotation, position)
        category_id = self._category(annotation, place)
        is_crowd = self._flags(annotation, place)
        size = image.size if image is not None else None
        mask, polygons = self._mask(annotation, size, is_crowd, place)
        box = check_box(annotation["bbox"], place, self._problems) if "bbox" in annotation else None
        compare_with_mask(box, mask, size, place, self._problems)
        area = self._area(annotation, mask, polygons, size, place)
        extent = mask.box if mask is not None and mask.box is not None else box
        if image is None or category_id is None or extent is None:
            return None
        if area is None:
            area = (extent[2] - extent[0]) * (extent[3] - extent[1])
        has_mask = mask is not None and mask.box is not None
        return LabelledObject(position, image.number, category_id, is_crowd, extent, area, has_mask)

    def _identify(
        self, annotation: dict[str, Any], position: int
    ) -> tuple[Place, ImageEntry | None]:
        own_id = annotation.get("id", f"number {position}")
        image_id = annotation.get("image_id")
        known = self._images.get(image_id) if type(image_id) in (int, float, str) else None
        place = known.place(own_id) if known else Place(None, image_id, own_id)
        report_missing(
            annotation, ("id", "image_id", "category_id", "bbox", "area", "iscrowd"),
            "it", place, self._problems,
        )  # fmt: skip
        checked = checked_id(annotation.get("id"), "its id", place, self._problems)
        self._ids.see(checked, position, place)
        if type(checked) is int and checked == 0:
            self._problems.add("annotation-id-zero", "its id is 0", place)
        if "image_id" in annotation:
            checked_id(image_id, "its image_id", place, self._problems)
            if known is None:
                text = f"image_id {shown(image_id)} is not in the list of images"
                other = self._as_text.get(str(image_id))
                if other is not None:
                    text += f"; {other!r} is, which is not the same"
                self._problems.add("unknown-image", text, place)
        return place, known

    def _category(self, annotation: dict[str, Any], place: Place) -> Any:
        if "category_id" not in annotation:
            return None
        given = annotation["category_id"]
        category_id = checked_id(given, "its category_id", place, self._problems)
        if category_id is not None and category_id in self._categories:
            return category_id
        self._problems.add(
            "unknown-category",
            f"category_id {shown(given)} is not in the list of categories",
            place,
        )
        return None

    def _flags(self, annotation: dict[str, Any], place: Place) -> bool:
        flag = annotation.get("iscrowd", 0)
        if type(flag) is not int or flag not in (0, 1):
            self._problems.add("crowd-flag-invalid", f"iscrowd is {shown(flag)}", place)
        if annotation.get("ignore", 0) != 0:
            self._problems.add("ignore-flag", f"ignore is {shown(annotation['ignore'])}", place)
        return bool(flag)

    def _mask(
        self, annotation: dict[str, Any], size: Size | None, is_crowd: bool, place: Place
    ) -> tuple[MaskFacts | None, list[np.ndarray]]:
        """What the mask is like, None if there is no usable one; and its polygons, if any."""
        segmentation = annotation.get("segmentation")
        if segmentation is None or segmentation == []:
            self._problems.add("mask-missing", "it has no segmentation", place)
            return None, []
        if isinstance(segmentation, dict):
            mask = check_rle(segmentation, size, place, self._problems)
            if mask is not None and mask.box is None:
                self._problems.add("mask-empty", "its run-length code covers no pixel", place)
            return mask, []
        if not isinstance(segmentation, list) or all(map(is_number, segmentation)):
            text = f"it is {shown(segmentation)}, expected a list of polygons or a run-length code"
            self._problems.add("segmentation-invalid", text, place)
            return None, []
        if is_crowd:
            self._problems.add("crowd-polygons", f"{len(segmentation)} polygons", place)
        polygons = check_polygons(segmentation, size, place, self._problems)
        if not polygons:
            return None, []
        for points in polygons:
            self._borders.add(points, place)
        mask = polygon_facts(polygons)
        if mask.most < TINY_AREA and drawn_area(polygons, size) == 0:
            self._problems.add("mask-empty", "its polygons cover no pixel", place)
            mask = mask._replace(box=None)
        return mask, polygons

    def _area(
        self,
        annotation: dict[str, Any],
        mask: MaskFacts | None,
        polygons: list[np.ndarray],
        size: Size | None,
        place: Place,
    ) -> float | None:
        """The mask's area; what 'area' says is compared with it."""
        actual = mask.most if mask is not None and mask.box is not None else None
        given = annotation.get("area", 0)
        if not is_number(given):
            self._problems.add("wrong-type", f"area is {shown(given)}, no number", place)
        elif not is_finite(given):
            self._problems.add("number-not-finite", f"area is {shown(given)}", place)
        elif "area" in annotation and mask is not None and actual is not None:
            # Crowds are outside of the size classes; many of COCO's have other areas.
            if annotation.get("iscrowd") or _fits(given, mask):
                return actual
            if polygons:
                drawn = drawn_area(polygons, size)
                if drawn is None:
                    return actual
                actual = float(drawn)
            if abs(given - actual) > AREA_TOLERANCE * max(actual, given) + 2:
                self._problems.add(
                    "area-mismatch", f"area is {shown(given)}, the mask has {actual:.0f} pixels",
                    place,
                )  # fmt: skip
        return actual


def _fits(given: float, mask: MaskFacts) -> bool:
    """Whether an area can be the mask's, as far as its polygons' areas tell."""
    assert mask.box is not None
    x0, y0, x1, y1 = mask.box
    rounding = 2.0 if mask.is_exact else 2 + 0.25 * (x1 - x0 + y1 - y0)
    least = (1 - AREA_TOLERANCE) * mask.least - rounding
    most = (1 + AREA_TOLERANCE) * mask.most + rounding
    return least <= given <= most
