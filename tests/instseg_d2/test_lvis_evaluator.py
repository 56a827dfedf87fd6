"""The evaluator against Detectron2's own, on the same instances."""

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import LVISEvaluator
from detectron2.structures import Instances

from instseg_d2.errors import ConfigError
from instseg_d2.lvis_evaluator import METRICS, FastLVISEvaluator
from tests.coco_cases import Case
from tests.coco_outputs import assert_same, instances_of, process, proposals_of, run
from tests.lvis_cases import RICH, random_lvis_case

pytest.importorskip("lvis")

NAME = "made_lvis"
RESULTS_FILE = "lvis_instances_results.json"


def numbered(case: Case) -> Case:
    """With categories from 1 on, in the order of their ids, as LVIS has them."""
    dataset, results = copy.deepcopy(case)
    ids = sorted(category["id"] for category in dataset["categories"])
    numbers = {key: number for number, key in enumerate(ids, 1)}
    for category in dataset["categories"]:
        category["id"] = numbers[category["id"]]
    for image in dataset["images"]:
        for key in ("neg_category_ids", "not_exhaustive_category_ids"):
            image[key] = [numbers[category] for category in image[key]]
    for entry in (*dataset["annotations"], *results):
        entry["category_id"] = numbers[entry["category_id"]]
    return dataset, results


@pytest.fixture(params=["ids from 1 on", "ids of COCO"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """Registered as :data:`NAME`."""
    case = random_lvis_case(RICH)
    if request.param == "ids from 1 on":
        case = numbered(case)
    path = tmp_path / "lvis.json"
    path.write_text(json.dumps(case[0]))
    DatasetCatalog.register(NAME, list)
    metadata = MetadataCatalog.get(NAME).set(json_file=str(path), evaluator_type="lvis")
    ids = sorted(category["id"] for category in case[0]["categories"])
    if request.param == "ids of COCO":
        mapping = {key: index for index, key in enumerate(ids)}
        metadata.set(thing_dataset_id_to_contiguous_id=mapping)
    metadata.set(thing_classes=[str(key) for key in ids])
    yield case
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_results_and_file_are_those_of_detectron2(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "float", float, raising=False)  # which NumPy had until 1.24
    outputs, folders = instances_of(case), [tmp_path / "theirs", tmp_path / "ours"]
    tasks = ("bbox", "segm")
    wanted = run(LVISEvaluator(NAME, tasks=tasks, output_dir=str(folders[0])), outputs)
    assert all(0 < value < 100 for numbers in wanted.values() for value in numbers.values())
    evaluator = FastLVISEvaluator(NAME, str(folders[1]), tasks=tasks)
    assert_same(run(evaluator, outputs), wanted)
    texts = [(folder / RESULTS_FILE).read_text() for folder in folders]
    assert texts[0] == texts[1]
    assert [path.name for path in folders[1].iterdir()] == [RESULTS_FILE]
    assert evaluator.lvis_figures["segm"].stats["AR"] > 0


def test_fewer_detections(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "float", float, raising=False)
    outputs = instances_of(case)
    theirs, ours = (
        kind(NAME, tasks=("bbox",), max_dets_per_image=3, distributed=False)
        for kind in (LVISEvaluator, FastLVISEvaluator)
    )
    assert_same(run(ours, outputs), run(theirs, outputs))


def test_box_proposals_are_judged_as_by_detectron2(case: Case) -> None:
    outputs = proposals_of(case)
    for annotation in case[0]["annotations"]:
        assert "iscrowd" not in annotation
    theirs, ours = (
        process(kind(NAME), outputs, "proposals").evaluate()
        for kind in (LVISEvaluator, FastLVISEvaluator)
    )
    assert_same(ours, theirs)


def test_a_model_that_finds_nothing(case: Case, tmp_path: Path) -> None:
    outputs = {key: instances[:0] for key, instances in instances_of(case).items()}
    results = run(FastLVISEvaluator(NAME, str(tmp_path / "out")), outputs)
    assert [list(numbers) for numbers in results.values()] == [list(METRICS)] * 2
    assert all(math.isnan(value) for numbers in results.values() for value in numbers.values())
    assert (tmp_path / "out" / RESULTS_FILE).read_text() == "[]"


def test_what_cannot_be_computed_is_nan(case: Case) -> None:
    path = Path(MetadataCatalog.get(NAME).json_file)
    dataset = json.loads(path.read_text())
    for annotation in dataset["annotations"]:
        annotation["area"] = 5.0
    path.write_text(json.dumps(dataset))
    results = run(FastLVISEvaluator(NAME), instances_of(case))
    assert math.isnan(results["bbox"]["APl"])
    assert results["bbox"]["APs"] > 0


def test_a_class_that_the_data_does_not_have(case: Case) -> None:
    outputs: dict[Any, Instances] = instances_of(case)
    instances = next(each for each in outputs.values() if len(each))
    instances.pred_classes[0] = 40
    with pytest.raises(ConfigError, match="the class 40, but"):
        run(FastLVISEvaluator(NAME), outputs)


def test_some_of_the_images(case: Case) -> None:
    evaluator = process(FastLVISEvaluator(NAME), instances_of(case))
    with pytest.raises(ConfigError, match="on all images"):
        evaluator.evaluate([1])
