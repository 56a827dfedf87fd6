"""Pictures of annotated images, however bad the annotations are."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Any, NamedTuple

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.data.catalog import Metadata
from detectron2.structures import BoxMode

from ..data.image_reading import read_image
from ..errors import DataError
from ..visualize import draw_instances
from .annotations import LabelledObject
from .check import CheckedData
from .codes import SEVERITIES
from .entries import ImageEntry
from .image_files import resolve
from .masks import Box, Size
from .polygons import check_polygons
from .problems import Place, Problem, Problems
from .run_length_masks import check_rle

MAX_SIDE = 640
"""Pixels of the longer side of a picture."""

MAX_ASPECT = 4
"""Narrower images are drawn with a border, because pictures are enlarged to a least width."""

MAX_DRAWN = 150
"""Objects drawn in one picture, the largest ones."""

MAX_PIXELS = 2**26
"""Masks of larger images are not decoded for a picture; their boxes are drawn."""

BAD = (230, 30, 30)


class Sample(NamedTuple):
    """An image of the data set for people to look at.

    Attributes:
        image: as the JSON has it.
        picture: uint8 RGB (H, W, 3); None if the file cannot be read.
        categories: ids of its objects.
        problems: of the image and its annotations, the worst first.
    """

    image: ImageEntry
    picture: np.ndarray | None
    categories: list[Any]
    problems: list[Problem]


def choose_images(data: CheckedData, num: int, seed: int = 0) -> list[ImageEntry]:
    """Images to look at: up to half of them with errors or warnings, so that each code is among
    them while there is room, the others drawn at random.

    Args:
        data: what was checked.
        num: of images, at most.
        seed: of the draw.

    Returns:
        Those with errors and warnings first, each part in the order of the file.
    """
    by_id = {image.image_id: image for image in reversed(data.images)}
    by_code: dict[str, dict[int, ImageEntry]] = defaultdict(dict)
    for problem in data.problems:
        image = by_id.get(problem.image_id) if _is_hashable(problem.image_id) else None
        if image is not None and problem.severity != "note":
            by_code[problem.code].setdefault(image.number, image)
    chosen: dict[int, ImageEntry] = {}
    queues = [list(images.values()) for images in by_code.values()]
    while any(queues) and len(chosen) < (num + 1) // 2:
        for queue in queues:
            if queue and len(chosen) < (num + 1) // 2:
                image = queue.pop(0)
                chosen[image.number] = image
    rest = [image for image in data.images if image.number not in chosen]
    drawn = random.Random(seed).sample(rest, min(num - len(chosen), len(rest)))
    return [chosen[number] for number in sorted(chosen)] + sorted(
        drawn, key=lambda image: image.number
    )


def samples_of(data: CheckedData, images: list[ImageEntry]) -> list[Sample]:
    """The pictures of some images. Files outside of the image folder are not opened."""
    indices = {image.number for image in images}
    objects: dict[int, list[LabelledObject]] = defaultdict(list)
    for one in data.objects:
        if one.image in indices:
            objects[one.image].append(one)
    ids = {image.image_id for image in images}
    problems: dict[Any, list[Problem]] = defaultdict(list)
    for problem in data.problems:
        if _is_hashable(problem.image_id) and problem.image_id in ids:
            problems[problem.image_id].append(problem)
    return [
        Sample(
            image,
            _picture(data, image, objects[image.number], problems[image.image_id]),
            list(dict.fromkeys(one.category_id for one in objects[image.number])),
            problems[image.image_id],
        )
        for image in images
    ]


def _is_hashable(image_id: Any) -> bool:
    return type(image_id) in (int, float, str)


def _picture(
    data: CheckedData, image: ImageEntry, objects: list[LabelledObject], problems: list[Problem]
) -> np.ndarray | None:
    pixels = _read(data.image_root, image)
    if pixels is None:
        return None
    # Masks are drawn where the JSON has them. If the file has another size one sees that they do
    # not fit, as a model would.
    scale = min(1.0, MAX_SIDE / max(pixels.shape[:2]))
    pixels = _resized(pixels, scale)
    height, width = pixels.shape[:2]
    largest = sorted(objects, key=lambda one: -one.area)[:MAX_DRAWN]
    names = list(data.categories.values())
    numbers = {category_id: number for number, category_id in enumerate(data.categories)}
    drawable = []
    for one in largest:
        segmentation = data.annotations[one.position].get("segmentation")
        mask = _mask(segmentation, image.size, scale, (height, width))
        drawable.append(
            {
                "category_id": numbers[one.category_id],
                "iscrowd": int(one.is_crowd),
                "segmentation": _box_mask(one.box, scale, (height, width))
                if mask is None
                else mask,
                "bbox": [side * scale for side in one.box],
                "bbox_mode": BoxMode.XYXY_ABS,
            }
        )
    picture = draw_instances(pixels, drawable, Metadata(thing_classes=_drawable_names(names)))
    return _mark(picture, data, objects, problems, scale * picture.shape[1] / width)


def _read(image_root: str | None, image: ImageEntry) -> np.ndarray | None:
    """The image as Detectron2's reader gives it, RGB; None if there is none."""
    path = resolve(image_root, image.file) if image_root is not None and image.file else None
    if path is None or "\0" in path:
        return None
    try:
        return read_image({"file_name": path}, "RGB")
    except DataError:
        return None


def _resized(pixels: np.ndarray, scale: float) -> np.ndarray:
    """Made smaller, and wide enough to be drawn on; what is added right or below is black."""
    height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
    pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    least = max(height, width) // MAX_ASPECT
    below, right = max(0, least - height), max(0, least - width)
    padded: np.ndarray = cv2.copyMakeBorder(
        pixels, 0, below, 0, right, cv2.BORDER_CONSTANT, value=(0, 0, 0)
    )
    return padded


def _drawable_names(names: list[str]) -> list[str]:
    """Names for matplotlib: one line, and a dollar sign begins no formula."""
    return [" ".join(name.split()).replace("$", "＄")[:24] for name in names]


def _mask(segmentation: Any, size: Size | None, scale: float, canvas: Size) -> np.ndarray | None:
    """A mask, bool, made smaller; None if it cannot be drawn."""
    silent = Problems()
    if isinstance(segmentation, list):
        polygons = check_polygons(segmentation, None, Place(), silent)
        # Drawing far outside takes as long as inside.
        polygons = [np.clip(p * scale, -max(canvas), 2 * max(canvas)) for p in polygons]
        if not polygons:
            return None
        codes = mask_util.frPyObjects([points.reshape(-1) for points in polygons], *canvas)
        mask: np.ndarray = mask_util.decode(mask_util.merge(codes)) > 0
        return mask
    if not isinstance(segmentation, dict) or size is None or size[0] * size[1] > MAX_PIXELS:
        return None
    if check_rle(segmentation, size, Place(), silent) is None:
        return None
    if isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, *size)
    decoded = mask_util.decode(segmentation)
    return cv2.resize(decoded, canvas[::-1], interpolation=cv2.INTER_NEAREST) > 0


def _box_mask(box: Box, scale: float, canvas: Size) -> np.ndarray:
    """The border of a box, for an object without a mask that can be drawn."""
    mask = np.zeros(canvas, np.uint8)
    cv2.rectangle(mask, *_corners(box, scale, canvas), 1, 1)
    return mask > 0


def _corners(box: Box, scale: float, canvas: Size) -> tuple[tuple[int, int], tuple[int, int]]:
    """Of a box in a picture; OpenCV takes no number of any size."""
    limits = (canvas[1], canvas[0]) * 2
    x0, y0, x1, y1 = (
        round(min(max(side * scale, -1), limit)) for side, limit in zip(box, limits, strict=True)
    )
    return (x0, y0), (x1, y1)


def _mark(
    picture: np.ndarray,
    data: CheckedData,
    objects: list[LabelledObject],
    problems: list[Problem],
    scale: float,
) -> np.ndarray:
    """Frame what has a problem, with the box that the JSON says."""
    bad = {
        str(problem.annotation_id)
        for problem in problems
        if problem.annotation_id is not None and problem.severity in SEVERITIES[:2]
    }
    picture = np.ascontiguousarray(picture)
    for one in objects:
        annotation = data.annotations[one.position]
        if str(annotation.get("id", f"number {one.position}")) not in bad:
            continue
        boxes = [one.box]
        given = annotation.get("bbox")
        if isinstance(given, list) and len(given) == 4:
            try:
                x, y, width, height = (float(side) for side in given)
                boxes.append((x, y, x + width, y + height))
            except (TypeError, ValueError, OverflowError):
                pass
        for box in boxes:
            if np.isfinite(box).all():
                cv2.rectangle(picture, *_corners(box, scale, picture.shape[:2]), BAD, 2)
    return picture
