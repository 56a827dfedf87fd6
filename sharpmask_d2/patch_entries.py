"""What patches are drawn from: the objects of a data set, held once in memory, not per object."""

import math
from collections.abc import Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
from detectron2.data import DatasetFromList
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util
from torch.utils.data import Dataset

from instseg_d2.errors import DataError

from .patch_sampling import Box, SamplingOptions
from .sampler import CategoryBalancedSampler

#: What a patch is for: learning a mask, or the score of an object or of a place without one.
Draw = Literal["mask", "positive", "negative"]

#: Held-out patches take turns in this order.
TEST_DRAWS: tuple[Draw, ...] = ("mask", "positive", "mask", "negative")

#: What patches are wanted for, for messages.
Purpose = Literal["learn from", "evaluate on"]

Record = dict[str, Any]
"""One image in Detectron2's standard format."""


class PatchEntries(Dataset[dict[str, Any]]):
    """The objects that patches can be drawn around; one item for each.

    Item i is ``{"record": the image's dict, "annotation": the object's index in it}``. Records are
    stored once for all their objects, in a form that data loader workers share.
    """

    def __init__(self, records: list[Record], objects: np.ndarray, categories: np.ndarray) -> None:
        """
        Args:
            records: the images.
            objects: (n, 2) int: the index of the image, and that of the annotation in it.
            categories: (n,) int: a number for the category of each.
        """
        self.categories = categories
        self._objects = objects
        self._records = DatasetFromList(records, copy=False)

    def __len__(self) -> int:
        return len(self._objects)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, annotation = self._objects[index]
        return {"record": self._records[int(image)], "annotation": int(annotation)}


class FixedPatches(Dataset[dict[str, Any]]):
    """Patches that are the same whoever makes them, in whatever order.

    Items are those of ``PatchEntries`` with ``draw``, what to make of the object, and ``seed``, of
    all that is random about it.
    """

    def __init__(
        self, entries: PatchEntries, indices: Sequence[int], draws: Sequence[Draw], first_seed: int
    ) -> None:
        """
        Args:
            entries: the objects.
            indices, draws: of each patch, an object and what to make of it.
            first_seed: seed of the first patch; those of the others follow.
        """
        self._entries = entries
        self._indices = indices
        self._draws = draws
        self._first_seed = first_seed

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> dict[str, Any]:
        entry = self._entries[self._indices[index]]
        return {**entry, "draw": self._draws[index], "seed": self._first_seed + index}


def training_entries(dataset_dicts: Sequence[Record], options: SamplingOptions) -> PatchEntries:
    """All objects that patches can be drawn around.

    Crowds and objects without a mask, of less than ``min_area`` or with a side of less than
    ``min_side`` are left out.

    Args:
        dataset_dicts: images in Detectron2's standard format. Where category ids mean different
            things in different images, a key ``vocabulary`` (int) tells these apart.

    Raises:
        DataError: there is no such object, or an annotation is damaged.
    """
    return _entries(dataset_dicts, options, "learn from")


def testing_entries(dataset_dicts: Sequence[Record], options: SamplingOptions) -> FixedPatches:
    """``options.test_patches`` patches to evaluate on: half to judge masks by, a quarter each with
    and without an object to judge scores by.

    Objects are drawn as in training, but by :meth:`SamplingOptions.for_testing`.

    Raises:
        DataError: see :func:`training_entries`.
    """
    entries = _entries(dataset_dicts, options.for_testing(), "evaluate on")
    sampler = CategoryBalancedSampler(entries.categories, options.test_seed, rank=0, world_size=1)
    count = options.test_patches
    draws = [TEST_DRAWS[i % len(TEST_DRAWS)] for i in range(count)]
    # Far from those of another test_seed, whose patches must be others.
    first_seed = options.test_seed * 1_000_003
    return FixedPatches(entries, list(islice(sampler, count)), draws, first_seed)


def _entries(
    dataset_dicts: Sequence[Record], options: SamplingOptions, purpose: Purpose
) -> PatchEntries:
    records: list[Record] = []
    objects: list[tuple[int, int]] = []
    categories: list[tuple[int, int]] = []
    for record in dataset_dicts:
        annotations = record.get("annotations", ())
        with np.errstate(invalid="ignore", over="ignore"):  # these numbers get their own error
            chosen = [i for i, a in enumerate(annotations) if _can_be_drawn(a, record, options)]
        objects.extend((len(records), index) for index in chosen)
        vocabulary = record.get("vocabulary", 0)
        categories.extend((vocabulary, int(annotations[i]["category_id"])) for i in chosen)
        if chosen:
            records.append(record)
    if not objects:
        raise DataError(_why_nothing(dataset_dicts, options, purpose))
    _, numbers = np.unique(np.array(categories), axis=0, return_inverse=True)
    return PatchEntries(records, np.array(objects), numbers.reshape(-1))


def object_box(annotation: dict[str, Any]) -> Box:
    """The box of an annotation, whatever its ``bbox_mode``."""
    mode = annotation["bbox_mode"]
    a, b, c, d = (float(value) for value in annotation["bbox"])
    if mode == BoxMode.XYXY_ABS:
        return a, b, c, d
    if mode == BoxMode.XYWH_ABS:
        return a, b, a + c, b + d
    left, top, right, bottom = BoxMode.convert([a, b, c, d], mode, BoxMode.XYXY_ABS)
    return left, top, right, bottom


def visible_box(annotation: dict[str, Any], record: Record) -> Box:
    """What of the box of an annotation lies in its image: all of it where that says no size.

    Outside the image, right is not greater than left, or bottom not than top.
    """
    left, top, right, bottom = object_box(annotation)
    width, height = record.get("width", math.inf), record.get("height", math.inf)
    return max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)


def mask_area(segmentation: list[Any] | dict[str, Any]) -> float:
    """The area of a mask in pixels; nan where a polygon has coordinates that are not numbers.

    Of polygons it is that within their outlines (COCO's own figure), several are added up.
    """
    if isinstance(segmentation, dict):
        if isinstance(segmentation["counts"], (list, np.ndarray)):
            return float(sum(segmentation["counts"][1::2]))
        return float(mask_util.area(segmentation))
    return sum(_polygon_area(polygon) for polygon in segmentation)


def _polygon_area(polygon: Any) -> float:
    points = np.asarray(polygon, np.float64)
    if len(points) < 6:
        return 0.0
    x, y = points[::2], points[1::2]
    around = x[:-1] @ y[1:] - x[1:] @ y[:-1] + x[-1] * y[0] - x[0] * y[-1]
    return abs(float(around)) / 2


def _can_be_drawn(annotation: dict[str, Any], record: Record, options: SamplingOptions) -> bool:
    segmentation = annotation.get("segmentation")
    left_out = annotation.get("iscrowd", 0) or not segmentation
    if left_out and "bbox" not in annotation:
        return False
    try:  # of what is left out, too: the box keeps negatives away
        whole = object_box(annotation)
    except Exception as error:  # whatever is wrong with it, the image is what the user must know
        box, mode = annotation.get("bbox"), annotation.get("bbox_mode")
        raise damaged(record, f"'bbox' is {box!r} with 'bbox_mode' {mode!r}") from error
    area = 0.0
    try:
        if segmentation and not left_out:
            int(annotation["category_id"])
            stated = annotation.get("area")
            area = mask_area(segmentation) if stated is None else float(stated)
    except Exception as error:
        raise damaged(record, f"{type(error).__name__}: {error}") from error
    if not np.isfinite((*whole, area)).all():
        raise damaged(record, "a coordinate is not a finite number")
    if left_out:
        return False
    left, top, right, bottom = visible_box(annotation, record)
    shorter = min(right - left, bottom - top)
    return shorter >= options.min_side and area >= options.min_area


def damaged(record: Record, reason: str) -> DataError:
    """The error for an annotation, which names its image."""
    return DataError(
        f"an annotation of {record.get('file_name')} (image id {record.get('image_id')}) cannot be "
        f"used: {reason}. Correct or remove it."
    )


def _why_nothing(
    dataset_dicts: Sequence[Record], options: SamplingOptions, purpose: Purpose
) -> str:
    """Why no object can be drawn, for the user."""
    files = [str(record.get("file_name")) for record in dataset_dicts]
    where = (
        f"{len(files)} image(s), the first is {files[0]}" if files else "a data set of no images"
    )
    annotations = [
        annotation
        for record in dataset_dicts
        for annotation in record.get("annotations", ())
        if not annotation.get("iscrowd", 0)
    ]
    if not annotations:
        return f"{where}: no annotated object (crowds aside), so there is nothing to {purpose}"
    if not any(annotation.get("segmentation") for annotation in annotations):
        return (
            f"{where}: none of the {len(annotations)} objects has a 'segmentation', only boxes. "
            f"To {purpose} them, DeepMask and SharpMask need polygons or run-length codes"
        )
    kind = "TEST_" if purpose == "evaluate on" else ""
    return (
        f"{where}: all {len(annotations)} objects are too small to {purpose}, outside their images "
        "or without a mask. "
        f"MODEL.SHARP_MASK.SAMPLING.{kind}MIN_AREA is {options.min_area:g} and {kind}MIN_SIDE "
        f"{options.min_side:g} pixels: lower them, or enlarge the images"
    )
