"""Boxes, alone and beside their masks."""

from __future__ import annotations

from typing import Any

from .entries import is_finite, is_number
from .masks import Box, MaskFacts, Size, beyond, iou
from .polygons import MAX_OVER_BORDER
from .problems import Place, Problems, shown

LOOSE_PIXELS, LOOSE_IOU, OFF_IOU = 3.0, 0.85, 0.5
"""A box is loose if a side is off by more pixels and it overlaps the mask's box by less; and off
the mask, if it overlaps by still less."""

CORNERS_IOU = 0.9
"""Read as two corners, a box fits its mask if they overlap as much."""

MIN_NORMALISED_SIDE = 16
"""In smaller images an object may lie between the coordinates 0 and 1."""


def check_box(box: Any, place: Place, problems: Problems) -> Box | None:
    """The corners of a box of COCO's, [x, y, width, height]; None if it has no area or is none."""
    if not isinstance(box, list) or len(box) != 4 or not all(map(is_number, box)):
        problems.add("box-invalid", f"bbox is {shown(box)}, expected [x, y, width, height]", place)
        return None
    if not all(map(is_finite, box)):
        problems.add("number-not-finite", f"bbox is {shown(box)}", place)
        return None
    x, y, width, height = map(float, box)
    if width <= 0 or height <= 0:
        problems.add("box-without-area", f"width {width:g}, height {height:g}", place)
        return None
    return x, y, x + width, y + height


def compare_with_mask(
    box: Box | None, mask: MaskFacts | None, size: Size | None, place: Place, problems: Problems
) -> None:
    """Report a box that does not fit its mask or the image.

    Args:
        box: None if there is no usable one.
        mask: None if there is no usable one.
        size: the image's; None if unknown.
    """
    masked = mask.box if mask is not None else None
    if size is not None and _is_normalised(box, masked, size):
        problems.add("coordinates-normalised", f"the image has {size[1]} x {size[0]} pixels", place)
        return
    if box is None:
        return
    if masked is not None and _report_misfit(box, masked, place, problems):
        return
    over = beyond(box, size) if size is not None else 0.0
    if over == float("inf"):
        problems.add("box-outside-image", _text(box), place)
    elif over > MAX_OVER_BORDER:
        problems.add("box-over-border", f"{_text(box)}, {over:.1f} pixels beyond the image", place)


def _is_normalised(box: Box | None, masked: Box | None, size: Size) -> bool:
    coordinates = [number for one in (box, masked) if one is not None for number in one]
    return (
        min(size) >= MIN_NORMALISED_SIDE
        and bool(coordinates)
        and min(coordinates) >= 0
        # A box's two sides may each be rounded up.
        and max(coordinates) <= 1 + 1e-3
    )


def _report_misfit(box: Box, masked: Box, place: Place, problems: Problems) -> bool:
    """Report a box that is not the mask's; True if it seems to be given by its corners."""
    overlap = iou(box, masked)
    off = max(abs(a - b) for a, b in zip(box, masked, strict=True))
    if overlap >= LOOSE_IOU or off <= LOOSE_PIXELS:
        return False
    x0, y0 = box[:2]
    corners = (x0, y0, box[2] - x0, box[3] - y0)
    is_corners = corners[2] > x0 and corners[3] > y0 and iou(corners, masked) >= CORNERS_IOU
    code = "box-is-corners" if is_corners else "box-off-mask" if overlap < OFF_IOU else "box-loose"
    problems.add(
        code,
        f"the box has {_text(corners if is_corners else box)}; the mask has {_text(masked)} "
        f"(overlap {overlap:.2f})",
        place,
    )
    return is_corners


def _text(box: Box) -> str:
    return f"x {box[0]:.1f} to {box[2]:.1f}, y {box[1]:.1f} to {box[3]:.1f}"
