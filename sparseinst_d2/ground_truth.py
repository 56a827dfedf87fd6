"""The ground truth of one augmented image from its annotations.

What Detectron2's ``transform_instance_annotations`` and ``annotations_to_instances`` do, bit for
bit, but what all instances of an image share is done once, and a mask is written only where it has
pixels.
"""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances
from PIL import Image
from pycocotools import mask as mask_util

from instseg_d2.errors import DataError

Size = tuple[int, int]
"""Height and width."""

Annotation = dict[str, Any]
"""One instance in Detectron2's format: ``bbox``, ``bbox_mode``, ``category_id`` and
``segmentation``, which is a list of polygons or a compressed run-length code."""

Sources = tuple[np.ndarray, np.ndarray]
"""Which row and which column of a mask each row and each column of the result is taken from."""

#: They move every point by itself, by additions and multiplications of its own.
POINTWISE = (T.ResizeTransform, T.HFlipTransform, T.VFlipTransform, T.NoOpTransform)


def ground_truth(
    annotations: Sequence[Annotation], transforms: T.TransformList, before: Size, after: Size
) -> Instances:
    """The ground-truth ``Instances`` of an image.

    Args:
        annotations: of the image as it is stored; they are not changed.
        transforms: what was done to the image.
        before, after: size of the image before and after that.

    Returns:
        ``gt_boxes``, ``gt_classes`` and ``gt_masks`` (BitMasks), in the order of the annotations;
        crowds and instances without a pixel are left out.

    Raises:
        DataError: an annotation has no ``segmentation``, or one of another kind or size.
    """
    annotations = [one for one in annotations if not one.get("iscrowd", 0)]
    masks, present = _masks(annotations, transforms, before, after)
    annotations = [annotations[index] for index in present]
    instances = Instances(after)
    instances.gt_boxes = Boxes(_boxes(annotations, transforms, after))
    instances.gt_classes = torch.tensor(
        [int(one["category_id"]) for one in annotations], dtype=torch.int64
    )
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    return instances


def _boxes(annotations: list[Annotation], transforms: T.TransformList, after: Size) -> np.ndarray:
    """(n, 4) XYXY, cut at the image's borders."""
    if not annotations:
        return np.zeros((0, 4))
    # Integers stay integers in Detectron2, whose transforms cut their fractions off.
    moved = [transforms.apply_box(boxes) for boxes in _corners(annotations)]
    return np.minimum(np.concatenate(moved).clip(min=0), [after[1], after[0]] * 2)


def _corners(annotations: list[Annotation]) -> list[np.ndarray]:
    """The boxes XYXY, all (n, 4) in one array or, if they are of several kinds, (1, 4) each."""
    boxes, modes = [one["bbox"] for one in annotations], {one["bbox_mode"] for one in annotations}
    if modes == {BoxMode.XYWH_ABS} and all(
        type(box) is list and any(type(number) is float for number in box) for box in boxes
    ):
        corners = BoxMode.convert(torch.tensor(boxes), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
        return [corners.numpy().astype(np.float64)]
    return [
        np.array([BoxMode.convert(one["bbox"], one["bbox_mode"], BoxMode.XYXY_ABS)])
        for one in annotations
    ]


# ---- masks ---------------------------------------------------------------------------------------


def _masks(
    annotations: list[Annotation], transforms: T.TransformList, before: Size, after: Size
) -> tuple[np.ndarray, list[int]]:
    """The masks (k, *after) bool that have a pixel, and which of the annotations have these."""
    segmentations = [_segmentation(one, before) for one in annotations]
    polygons = iter(
        _move_polygons([one for one in segmentations if isinstance(one, list)], transforms)
    )
    has_codes = any(isinstance(one, dict) for one in segmentations)
    sources = _sources(transforms, before) if has_codes else None
    masks = np.zeros((len(segmentations), *after), dtype=np.uint8)
    present: list[int] = []
    for index, segmentation in enumerate(segmentations):
        mask = masks[len(present)]
        if isinstance(segmentation, list):
            code = _code(next(polygons), after)
            drawn = code is not None and _draw(code, mask)
        elif sources is not None:
            drawn = _draw(segmentation, mask, sources)
        else:
            mask[:] = transforms.apply_segmentation(mask_util.decode(segmentation))
            drawn = mask.any()
        if drawn:
            present.append(index)
    if len(present) < len(masks):
        masks = masks[: len(present)].copy()
    return masks.view(bool), present


def _segmentation(annotation: Annotation, size: Size) -> list[Any] | dict[str, Any]:
    """Polygons or a run-length code of an image of this size."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list):
        return segmentation
    if not isinstance(segmentation, dict):
        raise DataError(
            "an annotation's 'segmentation' must be a list of polygons or a run-length code, got "
            f"{type(segmentation).__name__}"
        )
    if tuple(segmentation["size"]) != size:
        raise DataError(
            f"an annotation's run-length code is for an image of (height, width) = "
            f"{tuple(segmentation['size'])}, the image has {size}"
        )
    return segmentation


def _move_polygons(
    instances: list[list[Any]], transforms: T.TransformList
) -> list[list[np.ndarray]]:
    """The polygons (points, 2) of every instance after the transforms."""
    polygons = [[np.array(one).reshape(-1, 2) for one in instance] for instance in instances]
    flat = [polygon for instance in polygons for polygon in instance]
    alike = len({polygon.dtype for polygon in flat}) == 1
    if not alike or any(type(one) not in POINTWISE for one in transforms.transforms):
        return [transforms.apply_polygons(instance) for instance in polygons]
    points = transforms.apply_coords(np.concatenate(flat))
    moved = iter(np.split(points, np.cumsum([len(polygon) for polygon in flat])[:-1]))
    return [[next(moved) for _ in instance] for instance in polygons]


def _code(polygons: list[np.ndarray], size: Size) -> dict[str, Any] | None:
    """The union of polygons (points, 2) as a run-length code; None for no polygon.

    The code is for an image that ends, at the latest, right of the polygons: what there is of
    empty columns takes time to decode.
    """
    if not polygons:
        return None
    height, width = size
    right = math.ceil(max(polygon[:, 0].max() for polygon in polygons)) + 1
    flat = [polygon.reshape(-1) for polygon in polygons]
    return mask_util.merge(mask_util.frPyObjects(flat, height, min(max(right, 1), width)))


def _sources(transforms: T.TransformList, size: Size) -> Sources | None:
    """Where masks are taken from; None if a transform does more than move rows and columns."""
    rows, columns = np.arange(size[0]), np.arange(size[1])
    for one in transforms.transforms:
        if type(one) is T.ResizeTransform:
            rows = rows[_nearest(one.h, one.new_h)]
            columns = columns[_nearest(one.w, one.new_w)]
        elif type(one) is T.CropTransform:
            rows = rows[one.y0 : one.y0 + one.h]
            columns = columns[one.x0 : one.x0 + one.w]
        elif type(one) is T.HFlipTransform:
            columns = columns[::-1]
        elif type(one) is T.VFlipTransform:
            rows = rows[::-1]
        elif type(one) is not T.NoOpTransform:
            return None
    return rows, columns


def _nearest(length: int, new_length: int) -> np.ndarray:
    """The positions that Pillow takes when it resizes a line by nearest neighbour."""
    line = Image.fromarray(np.arange(length, dtype=np.int32)[None])
    return np.asarray(line.resize((new_length, 1), Image.Resampling.NEAREST))[0]


def _draw(code: dict[str, Any], mask: np.ndarray, sources: Sources | None = None) -> bool:
    """Copy the box that a run-length code occupies into a mask (H, W) uint8, so far zero.

    Args:
        code: of an image as large as the mask, or narrower; with ``sources``, of any size.
        mask: written to.
        sources: from where in the code's image the mask is taken.

    Returns:
        whether the mask has a pixel now.
    """
    x, y, width, height = (int(value) for value in mask_util.toBbox(code))
    if not width or not height:
        return False
    # Codes run down the columns; transposing them costs most, hence only those that are needed.
    by_column = mask_util.decode(_without_left(code, x)).T[:width, y : y + height]
    if sources is None:
        mask[y : y + height, x : x + width] = cv2.transpose(by_column)
        return True
    rows, columns = sources
    # They rise or fall, so those within the box are neighbours.
    inner_rows = np.flatnonzero((rows >= y) & (rows < y + height))
    inner_columns = np.flatnonzero((columns >= x) & (columns < x + width))
    if not len(inner_rows) or not len(inner_columns):
        return False
    by_row = cv2.transpose(by_column[columns[inner_columns] - x])
    box = by_row[rows[inner_rows] - y]
    mask[inner_rows[0] : inner_rows[-1] + 1, inner_columns[0] : inner_columns[-1] + 1] = box
    return bool(box.any())


def _without_left(code: dict[str, Any], columns: int) -> dict[str, Any]:
    """The code of a mask without its first columns, which are empty.

    They are a part of the first run, on which no other depends. It is written like every number:
    5 bits a character, the lowest first; bit 5 says that more follow, bit 4 of the last is the
    sign. (Source: ``rleToString`` in pycocotools.)
    """
    counts = code["counts"]
    counts = counts.encode() if isinstance(counts, str) else counts
    length = next(place for place, byte in enumerate(counts) if not (byte - 48) & 32) + 1
    height, width = code["size"]
    run = sum(((byte - 48) & 31) << (5 * place) for place, byte in enumerate(counts[:length]))
    run -= columns * height
    written = bytearray()
    while run > 15:
        written.append(((run & 31) | 32) + 48)
        run >>= 5
    written.append(run + 48)
    return {"size": [height, width - columns], "counts": bytes(written) + counts[length:]}
