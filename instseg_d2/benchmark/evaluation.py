"""COCO's evaluation of masks and boxes: the project's, Detectron2's, and pycocotools by itself."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from instseg_d2.coco_evaluator import FastCOCOEvaluator
from instseg_d2.rle_masks import RLEMasks

from .differences import greatest
from .settings import COCO_SIZE, Settings
from .stages import PRODUCT
from .timing import Comparison, Side

IMAGES = 500
DETECTIONS = 100
CATEGORIES = 80
TASKS = ("bbox", "segm")

Truth = dict[str, Any]
Found = list[tuple[int, list[dict[str, Any]]]]
"""Of each image: its id, and results in COCO's form."""


def evaluation(settings: Settings) -> Iterator[Comparison]:
    """Of made-up results; encoding the masks is not in it.

    ``pycocotools`` gives other figures by name than the two evaluators and is not compared in
    values: Detectron2's figures are its.
    """
    truth, found = synthetic(settings.images or IMAGES)
    name = f"benchmark_{uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "truth.json"
        file.write_text(json.dumps(truth))
        register_coco_instances(name, {}, str(file), folder)
        try:
            with contextlib.redirect_stdout(io.StringIO()), _quiet():
                DatasetCatalog.get(name)
                yield Comparison(
                    "COCO evaluation",
                    {
                        PRODUCT: Side(_evaluate, lambda: fast_evaluator(name, folder, found)),
                        "detectron2": Side(
                            _evaluate, lambda: detectron2_evaluator(name, folder, found)
                        ),
                        "pycocotools": Side(
                            lambda results: pycocotools_stats(truth, results),
                            lambda: [copy.copy(one) for _, many in found for one in many],
                        ),
                    },
                    len(found),
                    difference=lambda one, other: greatest(one, other) if other else None,
                    memory=False,
                )
        finally:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def synthetic(images: int, seed: int = 0) -> tuple[Truth, Found]:
    """About seven objects in each image, and :data:`DETECTIONS` results, most of which are moved
    and resized copies of objects."""
    rng = np.random.default_rng(seed)
    height, width = COCO_SIZE
    truth: Truth = {
        "images": [
            {"id": i, "height": height, "width": width, "file_name": f"{i}.jpg"}
            for i in range(1, images + 1)
        ],
        "categories": [{"id": i, "name": f"class {i}"} for i in range(1, CATEGORIES + 1)],
        "annotations": [],
    }
    found: Found = []
    for image in range(1, images + 1):
        objects = [_shape(rng) for _ in range(1 + rng.poisson(6))]
        classes = rng.integers(1, CATEGORIES + 1, len(objects)).tolist()
        for shape, category in zip(objects, classes, strict=True):
            rle, box = _coded(shape)
            truth["annotations"].append(
                {"id": len(truth["annotations"]) + 1, "image_id": image, "category_id": category,
                 "segmentation": rle, "bbox": box, "area": float(mask_util.area(rle)),
                 "iscrowd": 0}
            )  # fmt: skip
        results = []
        for _ in range(DETECTIONS):
            nearest = int(rng.integers(len(objects)))
            category = classes[nearest] if rng.random() < 0.7 else int(rng.integers(1, CATEGORIES))
            rle, box = _coded(objects[nearest] + rng.normal(0, 6, 4))
            results.append(
                {"image_id": image, "category_id": category, "bbox": box,
                 "score": float(np.float32(rng.random())), "segmentation": rle}
            )  # fmt: skip
        found.append((image, results))
    return truth, found


def _shape(rng: np.random.Generator) -> np.ndarray:
    """Centre and half axes (x, y, a, b) of an ellipse."""
    height, width = COCO_SIZE
    return np.array([rng.uniform(0, width), rng.uniform(0, height), *rng.uniform(6, 90, 2)])


def _coded(shape: np.ndarray) -> tuple[dict[str, Any], list[float]]:
    """The run-length code of an ellipse within the image, as text, and its box."""
    x, y, a, b = shape
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    a, b = max(a, 2), max(b, 2)
    polygon = np.stack([x + a * np.cos(angles), y + b * np.sin(angles)], axis=1).ravel()
    code = mask_util.frPyObjects([polygon.tolist()], *COCO_SIZE)[0]
    text = {"size": list(code["size"]), "counts": code["counts"].decode()}
    return text, [float(side) for side in mask_util.toBbox(code)]


def fast_evaluator(name: str, folder: str, found: Found) -> FastCOCOEvaluator:
    """The project's, with all results in it."""
    evaluator = FastCOCOEvaluator(name, folder, tasks=TASKS, distributed=False)
    evaluator.reset()
    for image, results in found:
        instances = Instances(COCO_SIZE)
        boxes = torch.tensor([result["bbox"] for result in results], dtype=torch.float64)
        boxes[:, 2:] += boxes[:, :2]
        instances.pred_boxes = Boxes(boxes.float())
        instances.scores = torch.tensor([result["score"] for result in results])
        instances.pred_classes = torch.tensor([r["category_id"] - 1 for r in results])
        instances.pred_masks = RLEMasks([r["segmentation"] for r in results], COCO_SIZE)
        evaluator.process([{"image_id": image}], [{"instances": instances}])
    return evaluator


def detectron2_evaluator(name: str, folder: str, found: Found) -> COCOEvaluator:
    """Detectron2's, with all results in it as it keeps them: of dense masks, which it takes, fifty
    thousand would not fit into memory."""
    evaluator = COCOEvaluator(
        name, tasks=TASKS, distributed=False, output_dir=folder, use_fast_impl=False
    )
    evaluator.reset()
    evaluator._predictions = [
        {
            "image_id": image,
            "instances": [{**r, "category_id": r["category_id"] - 1} for r in results],
        }
        for image, results in found
    ]
    return evaluator


def _evaluate(evaluator: COCOEvaluator) -> dict[str, Any]:
    results: dict[str, Any] = evaluator.evaluate()
    return results


def pycocotools_stats(truth: Truth, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Nothing: its figures are on the evaluators' side."""
    index = COCO()
    index.dataset = truth
    index.createIndex()
    for task in TASKS:
        given = [dict(result) for result in results]
        if task == "segm":
            for result in given:
                del result["bbox"]  # else areas would be those of boxes
        evaluated = COCOeval(index, index.loadRes(given), task)
        evaluated.evaluate()
        evaluated.accumulate()
        evaluated.summarize()
    return {}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
