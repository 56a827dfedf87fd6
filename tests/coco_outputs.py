"""What a model finds, as Detectron2's evaluators are given it, of results in COCO's form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import Boxes, Instances

from tests.coco_cases import Case

Outputs = dict[Any, Instances]
"""Image id -> what a model found."""


def instances_of(case: Case) -> Outputs:
    dataset, results = case
    indices = {
        key: index
        for index, key in enumerate(sorted(entry["id"] for entry in dataset["categories"]))
    }
    outputs = {}
    for image in dataset["images"]:
        own = [result for result in results if result["image_id"] == image["id"]]
        instances = Instances((image["height"], image["width"]))
        boxes = torch.tensor([result["bbox"] for result in own]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances.pred_boxes = Boxes(boxes)
        instances.scores = torch.tensor([result["score"] for result in own])
        instances.pred_classes = torch.tensor(
            [indices[result["category_id"]] for result in own], dtype=torch.int64
        )
        masks = [mask_util.decode(result["segmentation"]) for result in own]
        stacked = np.stack(masks) if masks else np.zeros((0, *instances.image_size))
        instances.pred_masks = torch.from_numpy(stacked.astype(bool))
        outputs[image["id"]] = instances
    return outputs


def proposals_of(case: Case) -> Outputs:
    """The boxes alone, as proposals."""
    return {
        image_id: Instances(
            instances.image_size,
            proposal_boxes=instances.pred_boxes,
            objectness_logits=instances.scores,
        )
        for image_id, instances in instances_of(case).items()
    }


def process(evaluator: Any, outputs: Outputs, field: str = "instances") -> Any:
    evaluator.reset()
    for image_id, found in outputs.items():
        evaluator.process([{"image_id": image_id}], [{field: found}])
    return evaluator


def run(evaluator: Any, outputs: Outputs) -> dict[str, dict[str, float]]:
    results: dict[str, dict[str, float]] = process(evaluator, outputs).evaluate()
    return results


def assert_same(results: dict[str, dict[str, float]], wanted: dict[str, dict[str, float]]) -> None:
    assert results.keys() == wanted.keys()
    for task, numbers in results.items():
        assert numbers == pytest.approx(wanted[task], rel=0, abs=1e-9, nan_ok=True)
        assert list(numbers) == list(wanted[task])
