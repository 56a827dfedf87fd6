"""Small data sets in LVIS's format, with detections; what the package ``lvis`` makes of them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.coco_cases import Case, random_case

RICH = 35
"""The seed of a case in which all figures lie between 0 and 1."""


def random_lvis_case(seed: int) -> Case:
    """One of COCO's, of which each image was searched for some of the categories."""
    dataset, results = random_case(seed)
    rng = np.random.default_rng([seed, 1])
    category_ids = [category["id"] for category in dataset["categories"]]

    def some() -> list[int]:
        return [key for key in category_ids if rng.random() < 0.4]

    for image in dataset["images"]:
        present = {
            annotation["category_id"]
            for annotation in dataset["annotations"]
            if annotation["image_id"] == image["id"]
        }
        image["neg_category_ids"] = [key for key in some() if key not in present]
        image["not_exhaustive_category_ids"] = some()
    for annotation in dataset["annotations"]:
        del annotation["iscrowd"]  # LVIS knows no crowds
    for category in dataset["categories"]:
        category["frequency"] = str(rng.choice(["r", "c", "f"]))
    return dataset, results


def lvis_evaluation(
    dataset: dict[str, Any],
    results: list[dict[str, Any]],
    task: str,
    folder: Path,
    limit: int = 300,
) -> Any:
    """The package's ``LVISEval``, evaluated and summed up."""
    lvis = pytest.importorskip("lvis")
    results = copy.deepcopy(results)
    if task == "segm":
        for result in results:
            del result["bbox"]  # else the areas of boxes would be taken for those of masks
    path = folder / "truth.json"
    path.write_text(json.dumps(dataset))
    truth = lvis.LVIS(str(path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "float", float, raising=False)  # which NumPy had until 1.24
        evaluation = lvis.LVISEval(truth, lvis.LVISResults(truth, results, limit), task)
        evaluation.run()
    return evaluation
