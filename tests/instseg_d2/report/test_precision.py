"""The report's AP figures are those of the evaluator."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from instseg_d2.coco_evaluator import FastCOCOEvaluator
from instseg_d2.report.precision import IOUS, Precision, evaluate
from instseg_d2.report.results import Results
from instseg_d2.report.truth import SIZES, Truth, registered_truth
from tests.coco_cases import RICH, Case, random_case

NAME = "report_precision_test"


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    """Registered, and given."""
    content, results = random_case(RICH)
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    register_coco_instances(NAME, {}, str(tmp_path / "annotations.json"), str(tmp_path))
    yield content, results
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_figures_are_the_evaluators(case: Case) -> None:
    _, results = case
    DatasetCatalog.get(NAME)
    evaluator = FastCOCOEvaluator(NAME, None, distributed=False)
    evaluator._predictions = [
        {"image_id": 0, "instances": results, "mask_areas": [], "tasks": {"bbox", "segm"}}
    ]
    expected = evaluator.evaluate()
    truth = registered_truth(NAME)
    figures, remarks = evaluate(truth, Results("r.json", results, True), boundary=False)
    assert remarks == []
    assert list(figures) == ["segm", "bbox"]
    for task, precision in figures.items():
        wanted = expected[task]
        assert precision.overall() == pytest.approx(wanted["AP"])
        assert precision.at_iou(0) == pytest.approx(wanted["AP50"])
        assert precision.at_iou(5) == pytest.approx(wanted["AP75"])
        for size in SIZES:
            assert precision.of_size(size) == pytest.approx(wanted[f"AP{size[0]}"], nan_ok=True)
        for index, name in enumerate(truth.names.values()):
            assert precision.of_class(index) == pytest.approx(wanted[f"AP-{name}"], nan_ok=True)


def test_parts_add_up(case: Case) -> None:
    content, results = case
    figures, _ = evaluate(Truth("d", content, None, True), Results("r", results, True))
    for precision in figures.values():
        by_iou = [precision.at_iou(i) for i in range(len(IOUS))]
        assert np.mean(by_iou) == pytest.approx(precision.overall())
        assert precision.curve(0).mean() == pytest.approx(precision.at_iou(0))
        classes = range(len(content["categories"]))
        of_classes = [precision.of_class(i, 0) for i in classes]
        assert np.nanmean(of_classes) == pytest.approx(precision.at_iou(0))
        assert precision.curve(0, 0).mean() == pytest.approx(of_classes[0])


def test_class_without_objects_has_no_figure(case: Case) -> None:
    content, results = case
    kept = content["annotations"]
    content["annotations"] = [a for a in kept if a["category_id"] != kept[0]["category_id"]]
    figures, _ = evaluate(Truth("d", content, None, True), Results("r", results, True))
    index = sorted(c["id"] for c in content["categories"]).index(kept[0]["category_id"])
    assert isinstance(figures["segm"], Precision)
    assert math.isnan(figures["segm"].of_class(index))
    assert np.isnan(figures["segm"].curve(0, index)).all()
    assert math.isfinite(figures["segm"].overall())
