"""Annotations that training or evaluation would fail on, in Detectron2's records of a data set."""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np

from instseg_d2.data.coco_json import (
    MAX_FAULTS_SHOWN,
    Faults,
    check_coco_json,
    coco_file_of,
    find_annotation_id,
    read_coco_json,
)
from instseg_d2.data.segmentation_checks import (
    box_problem,
    crowd_problem,
    is_within_a_pixel,
    polygon_problem,
    rle_problem,
)
from instseg_d2.errors import DataError, short_repr

logger = logging.getLogger(__name__)

Record = dict[str, Any]
"""One image in Detectron2's standard format: file_name, image_id, height, width, annotations."""

Masks = Literal["all", "some", "none"]
"""Which objects of a data set a model needs the masks of."""


def check_annotations(
    name: str,
    records: list[Record],
    *,
    num_classes: int | None,
    for_training: bool,
    masks: Masks = "all",
) -> None:
    """Raise :class:`DataError` for annotations that training or evaluation would fail on.

    Crowd regions are passed over, as training does. Boxes and masks without area are no fault:
    Detectron2 filters them. For ``masks`` see :func:`.checks.load_checked_dataset`.
    """
    faulty: list[tuple[Record, int, str]] = []
    instances = without_mask = invisible = 0
    for record in records:
        size = record.get("height"), record.get("width")
        for index, annotation in enumerate(record.get("annotations", ())):
            problem = crowd_problem(annotation)
            if problem is None and annotation.get("iscrowd", 0):
                continue
            instances += 1
            problem = problem or instance_problem(annotation, *size, num_classes, masks)
            without_mask += problem is None and not annotation.get("segmentation")
            invisible += problem is None and masks != "none" and _is_invisible(annotation, *size)
            if problem is not None:
                faulty.append((record, index, problem))
    if faulty:
        _raise_annotation_faults(name, faulty)
    if invisible:
        _report_invisible(name, invisible, instances)
    if without_mask and masks != "none":
        _report_boxes(name, without_mask, instances)
    if for_training and not instances:
        json_file = coco_file_of(name)
        if json_file is not None:
            check_coco_json(json_file, "training")
        raise DataError(f"data set '{name}' has no annotated instances, so nothing can be learned.")


def _is_invisible(annotation: dict[str, Any], height: int | None, width: int | None) -> bool:
    polygons = annotation.get("segmentation")
    if not isinstance(polygons, list) or not polygons or height is None or width is None:
        return False
    return max(height, width) > 1 and is_within_a_pixel(polygons, height, width)


def _report_invisible(name: str, invisible: int, instances: int) -> None:
    """Say how many outlines are of no use; :class:`DataError` if that is all."""
    advice = "Polygons are in pixels of the image, not in fractions of its size."
    if invisible == instances:
        raise DataError(
            f"data set '{name}': none of its {instances} objects covers more than a pixel of its "
            f"image. {advice}"
        )
    logger.warning(
        "data set '%s': %d of the %d objects cover no more than a pixel of their image. %s",
        name,
        invisible,
        instances,
        advice,
    )


def _report_boxes(name: str, without_mask: int, instances: int) -> None:
    """Say how many objects have no mask; :class:`DataError` if that is all."""
    if without_mask == instances:
        raise DataError(
            f"data set '{name}': none of its {instances} objects has a mask ('segmentation'), only "
            "boxes; the model needs polygons or run-length codes."
        )
    logger.warning(
        "data set '%s': %d of the %d objects have no mask ('segmentation') and are left out.",
        name,
        without_mask,
        instances,
    )


def instance_problem(
    annotation: dict[str, Any],
    height: int | None,
    width: int | None,
    num_classes: int | None,
    masks: Masks = "all",
) -> str | None:
    """What is wrong with one annotation (not a crowd) in Detectron2's format, or None."""
    category = annotation.get("category_id")
    if not isinstance(category, (int, np.integer)):
        return f"category_id {short_repr(category)} is not an integer"
    if category < 0 or (num_classes is not None and category >= num_classes):
        limit = "" if num_classes is None else f" and below {num_classes}, the number of classes"
        return f"category_id {category} (counted from 0) must be at least 0{limit}"
    problem = box_problem(annotation.get("bbox"))
    if problem is not None:
        return problem
    if masks == "none":
        return None
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, list) and segmentation:
        return next(filter(None, map(polygon_problem, segmentation)), None)
    if isinstance(segmentation, dict):
        if isinstance(segmentation.get("counts"), list):
            return "the run-length code is not compressed: use pycocotools.mask.frPyObjects"
        return rle_problem(segmentation, height, width)
    if segmentation is None or isinstance(segmentation, list):
        if masks == "some":
            return None
        return "has no 'segmentation'; instance segmentation needs polygons or a run-length code"
    return (
        f"'segmentation' is a {type(segmentation).__name__}, expected polygons or run-length code"
    )


def _raise_annotation_faults(name: str, faulty: list[tuple[Record, int, str]]) -> None:
    """Name the annotations by their ids, which only the annotation file has."""
    json_file = coco_file_of(name)
    content = read_coco_json(json_file) if json_file is not None else {}
    faults = Faults()
    for position, (record, index, problem) in enumerate(faulty):
        faults.add(
            f"{_annotation_label(record, index, content)}: {problem}"
            if position < MAX_FAULTS_SHOWN
            else problem
        )
    faults.raise_if_any(
        f"data set '{name}': annotations that cannot be used: {faults.count}",
        f"Correct or remove them{f' in {json_file}' if json_file else ''}.",
    )


def _annotation_label(record: Record, index: int, content: dict[str, Any]) -> str:
    image_id = record.get("image_id")
    annotation_id = record["annotations"][index].get("id")
    if annotation_id is None:
        annotation_id = find_annotation_id(content, image_id, index)
    number = f"id {annotation_id}" if annotation_id is not None else f"number {index}"
    return f"annotation {number} of image id {image_id} ({record.get('file_name', 'no file')})"
