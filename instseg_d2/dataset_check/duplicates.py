"""Objects that are in a data set twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from .annotations import LabelledObject
from .entries import ImageEntry
from .masks import iou
from .problems import Problems

NEAR_IOU = 0.97
"""Boxes and areas of near duplicates agree at least as much."""

MAX_OBJECTS = 2000
"""Images with more objects are not searched for near duplicates: that would take too long."""


def report_duplicates(
    annotations: Sequence[dict[str, Any]],
    images: Sequence[ImageEntry],
    objects: Sequence[LabelledObject],
    problems: Problems,
) -> None:
    """Report equal and nearly equal objects of the same image."""
    for image, members in _by_image(objects):
        for first, second in _alike(members):
            one, other = annotations[first.position], annotations[second.position]
            is_same = one.get("segmentation") == other.get("segmentation")
            is_category = first.category_id == second.category_id
            place = images[image].place(other.get("id"))
            text = f"like annotation {one.get('id')}"
            if is_same and is_category:
                problems.add("duplicate-annotation", text, place)
            elif is_same:
                problems.add("object-of-two-categories", text, place)
            elif is_category and first.is_crowd == second.is_crowd:
                problems.add(
                    "near-duplicate", f"{text}: boxes overlap by {iou(first.box, second.box):.2f}",
                    place,
                )  # fmt: skip


def _by_image(objects: Sequence[LabelledObject]) -> Iterator[tuple[int, list[LabelledObject]]]:
    by_image: dict[int, list[LabelledObject]] = {}
    for one in objects:
        by_image.setdefault(one.image, []).append(one)
    yield from by_image.items()


def _alike(members: list[LabelledObject]) -> Iterator[tuple[LabelledObject, LabelledObject]]:
    """Pairs, in order, whose boxes and areas agree."""
    if len(members) < 2 or len(members) > MAX_OBJECTS:
        return
    if len(members) <= 4:  # arrays do not pay
        pairs: Iterator[tuple[LabelledObject, LabelledObject]] = combinations(members, 2)
    else:
        boxes = np.array([one.box for one in members])
        sides = boxes[:, 2:] - boxes[:, :2]
        # Of boxes that overlap so much, no side is off by more than this share of it.
        limit = (1 / NEAR_IOU - 1) * np.minimum(sides[:, None], sides[None])
        off = np.abs(boxes[:, None] - boxes[None]).reshape(len(members), -1, 2, 2).max(2)
        near = np.triu((off <= limit + 1e-9).all(2), 1)
        pairs = ((members[i], members[j]) for i, j in zip(*np.nonzero(near), strict=True))
    for first, second in pairs:
        areas = sorted((first.area, second.area))
        if iou(first.box, second.box) >= NEAR_IOU and areas[0] >= NEAR_IOU * areas[1]:
            yield first, second
