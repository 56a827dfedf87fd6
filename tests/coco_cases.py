"""Small data sets in COCO's format, with detections, as hostile as COCO's evaluation allows.

Categories and images in no order; crowds; images without objects or detections; more detections
than count; equal scores; boxes and masks without pixels; areas on the bounds of the size classes.
"""

from __future__ import annotations

import contextlib
import copy
import io
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

AREAS = (0.0, 1024.0, 1024.5, 9216.0, 1e10, 2e10)
"""Bounds of small, medium and large objects, and beyond."""

RICH = 153
"""The seed of a case in which all figures lie between 0 and 1, limits matter, and no id is 0."""

Case = tuple[dict[str, Any], list[dict[str, Any]]]


def random_case(seed: int) -> Case:
    """A data set and results on it. Ids of annotations start from 0 in some, which matters."""
    rng = np.random.default_rng(seed)
    size = tuple(int(side) for side in rng.integers(4, 40, 2) * rng.choice([1, 1, 6]))
    first_id = int(rng.choice([0, 1, 10**6]))
    images = [
        {"id": int(first_id + 7 * number), "height": size[0], "width": size[1], "file_name": "x"}
        for number in rng.permutation(rng.integers(1, 6))
    ]
    categories = [
        {"id": int(first_id + 3 * number), "name": f"class {number}"}
        for number in rng.permutation(rng.integers(1, 5))
    ]
    category_ids = [category["id"] for category in categories]
    annotations = [
        random_annotation(rng, image, int(rng.choice(category_ids)))
        for image in images
        for _ in range(rng.integers(0, 8))
    ]
    first_annotation = int(rng.integers(0, 3))
    for number, annotation in enumerate(annotations, first_annotation):
        annotation["id"] = number
    has_ties = bool(rng.random() < 0.4)
    results = [
        random_result(rng, image, annotations, category_ids, has_ties)
        for image in images
        for _ in range(rng.choice([0, 3, 20, 150]))
    ]
    if not results:  # pycocotools could not evaluate that
        results = [random_result(rng, images[0], annotations, category_ids, has_ties)]
    if rng.random() < 0.5:
        results = [results[index] for index in rng.permutation(len(results))]
    return {"images": images, "categories": categories, "annotations": annotations}, results


def random_annotation(
    rng: np.random.Generator, image: dict[str, Any], category_id: int
) -> dict[str, Any]:
    size = image["height"], image["width"]
    x, y, width, height = box = random_box(rng, size)
    rle = random_rle(rng, box, size)
    is_polygon = rng.random() < 0.5 and width * height > 0
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    area = float(mask_util.area(rle)) if rng.random() < 0.7 else float(rng.choice(AREAS))
    return {
        "image_id": image["id"],
        "category_id": category_id,
        "bbox": box,
        "area": area,
        "iscrowd": int(rng.random() < 0.15),
        "segmentation": [polygon] if is_polygon else rle,
    }


def random_result(
    rng: np.random.Generator,
    image: dict[str, Any],
    annotations: list[dict[str, Any]],
    category_ids: list[int],
    has_ties: bool,
) -> dict[str, Any]:
    size = image["height"], image["width"]
    near = [annotation for annotation in annotations if annotation["image_id"] == image["id"]]
    if near and rng.random() < 0.6:
        annotation = near[rng.integers(len(near))]
        category_id, box = annotation["category_id"], list(annotation["bbox"])
        box[0] = max(0.0, box[0] - float(rng.integers(2)))
    else:
        category_id, box = int(rng.choice(category_ids)), random_box(rng, size)
    score = rng.integers(6) / 5 if has_ties else np.float32(rng.random())
    return {
        "image_id": image["id"],
        "category_id": category_id,
        "bbox": box,
        "score": float(score),
        "segmentation": random_rle(rng, box, size),
    }


def random_box(rng: np.random.Generator, size: tuple[int, int]) -> list[float]:
    """[x, y, width, height] in whole pixels; one in twenty is empty."""
    (top, bottom), (left, right) = (np.sort(rng.integers(0, side + 1, 2)) for side in size)
    if rng.random() < 0.05:
        bottom, right = top, left
    return [float(left), float(top), float(right - left), float(bottom - top)]


def random_rle(rng: np.random.Generator, box: list[float], size: tuple[int, int]) -> dict[str, Any]:
    """A box, in some cases with holes, as text."""
    left, top, width, height = map(int, box)
    mask = np.zeros(size, np.uint8, order="F")
    mask[top : top + height, left : left + width] = 1
    if rng.random() < 0.3:
        mask[rng.random(size) < 0.2] = 0
    return {"size": list(size), "counts": mask_util.encode(mask)["counts"].decode()}


def pycocotools_evaluation(
    dataset: dict[str, Any], results: list[dict[str, Any]], task: str
) -> COCOeval:
    """What pycocotools itself makes of it, evaluated and summed up."""
    results = copy.deepcopy(results)
    if task == "segm":
        for result in results:
            del result["bbox"]  # else the areas of boxes would be taken for those of masks
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = copy.deepcopy(dataset)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), task)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation
