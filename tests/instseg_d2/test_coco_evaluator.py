"""The evaluator against Detectron2's own, on the same instances."""

import gc
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances

from instseg_d2.coco_evaluator import RESULTS_FILE, FastCOCOEvaluator, write_results
from instseg_d2.coco_metrics import PYCOCOTOOLS
from instseg_d2.errors import ConfigError
from instseg_d2.rle_masks import RLEMasks
from tests.coco_cases import RICH, random_case
from tests.coco_outputs import assert_same, instances_of, process, proposals_of, run
from tests.two_processes import spawn_two


def register(dataset: dict[str, Any], folder: Path, name: str) -> str:
    file = folder / f"{name}.json"
    file.write_text(json.dumps(dataset))
    register_coco_instances(name, {}, str(file), str(folder))
    DatasetCatalog.get(name)
    return name


@pytest.fixture
def registered(tmp_path: Path) -> Iterator[Any]:
    """Registers data sets for the length of a test."""
    names: list[str] = []

    def add(dataset: dict[str, Any]) -> str:
        names.append(register(dataset, tmp_path, f"coco_evaluator_{len(names)}"))
        return names[-1]

    yield add
    for name in names:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.mark.parametrize("seed", [1, 2, 5, RICH])
def test_results_and_file_are_those_of_detectron2(
    registered: Any, tmp_path: Path, seed: int
) -> None:
    case = random_case(seed)
    name, outputs = registered(case[0]), instances_of(case)
    theirs = COCOEvaluator(name, tasks=("bbox", "segm"), output_dir=str(tmp_path / "theirs"))
    wanted = run(theirs, outputs)
    ours = FastCOCOEvaluator(name, str(tmp_path / "ours"))
    assert_same(run(ours, outputs), wanted)
    written = (tmp_path / "ours" / RESULTS_FILE).read_text()
    assert written == (tmp_path / "theirs" / RESULTS_FILE).read_text()
    assert ours.figures["segm"].stats[0] * 100 == pytest.approx(wanted["segm"]["AP"])


def test_both_backends_agree(registered: Any, tmp_path: Path) -> None:
    case = random_case(RICH)
    name, outputs = registered(case[0]), instances_of(case)
    results = [
        run(FastCOCOEvaluator(name, backend=backend), outputs) for backend in (None, PYCOCOTOOLS)
    ]
    assert 0 < results[0]["segm"]["AP"] < 100
    assert_same(*results)


def test_options_of_detectron2(registered: Any) -> None:
    case = random_case(RICH)
    name, outputs = registered(case[0]), instances_of(case)
    some = [image["id"] for image in case[0]["images"]][:3]
    theirs, ours = (
        kind(name, tasks=("segm",), max_dets_per_image=20, distributed=False)
        for kind in (COCOEvaluator, FastCOCOEvaluator)
    )
    wanted = process(theirs, outputs).evaluate(img_ids=some)
    assert list(wanted) == ["segm"]
    assert_same(process(ours, outputs).evaluate(img_ids=some), wanted)


def test_evaluating_twice_gives_the_same(registered: Any) -> None:
    case = random_case(RICH)
    evaluator = FastCOCOEvaluator(registered(case[0]))
    results = run(evaluator, instances_of(case))
    assert_same(evaluator.evaluate(), results)
    assert gc.isenabled()


def test_run_length_codes_are_masks_too(registered: Any) -> None:
    case = random_case(RICH)
    name, outputs = registered(case[0]), instances_of(case)
    wanted = run(FastCOCOEvaluator(name), outputs)
    for instances in outputs.values():
        masks = instances.pred_masks.numpy().astype(np.uint8)
        rles = [mask_util.encode(np.asfortranarray(mask)) for mask in masks]
        instances.pred_masks = RLEMasks(rles, instances.image_size)
    assert_same(run(FastCOCOEvaluator(name), outputs), wanted)


# ------------------------------------------------------------------------ what is evaluated, or not


def test_a_model_without_masks_is_evaluated_in_boxes_alone(registered: Any) -> None:
    case = random_case(RICH)
    name, outputs = registered(case[0]), instances_of(case)
    wanted = run(FastCOCOEvaluator(name), outputs)
    for instances in outputs.values():
        instances.remove("pred_masks")
    assert_same(run(FastCOCOEvaluator(name), outputs), {"bbox": wanted["bbox"]})


def test_a_model_with_masks_that_finds_nothing(registered: Any, tmp_path: Path) -> None:
    case = random_case(RICH)
    name = registered(case[0])
    outputs = {key: instances[:0] for key, instances in instances_of(case).items()}
    results = run(FastCOCOEvaluator(name, str(tmp_path)), outputs)
    assert list(results) == ["bbox", "segm"]
    assert all(math.isnan(value) for numbers in results.values() for value in numbers.values())
    assert json.loads((tmp_path / RESULTS_FILE).read_text()) == []


def test_no_images(registered: Any, tmp_path: Path) -> None:
    evaluator = FastCOCOEvaluator(registered(random_case(RICH)[0]), str(tmp_path / "inference"))
    assert run(evaluator, {}) == {}
    assert not (tmp_path / "inference").exists()


def test_box_proposals_are_judged_as_by_detectron2(registered: Any, tmp_path: Path) -> None:
    case = random_case(RICH)
    name = registered(case[0])
    outputs = proposals_of(case)
    results = [
        process(kind(name, output_dir=str(tmp_path)), outputs, "proposals").evaluate()
        for kind in (COCOEvaluator, FastCOCOEvaluator)
    ]
    assert list(results[1]) == ["box_proposals"]
    assert_same(results[1], results[0])


def test_keypoints_are_left_to_pycocotools(registered: Any) -> None:
    keypoints = [value for k in range(17) for value in (4.0 + k, 5.0 + k, 2)]
    box = [2.0, 2.0, 30.0, 30.0]
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": box, "area": 900.0}
    dataset = {
        "images": [{"id": 1, "height": 40, "width": 40, "file_name": "x"}],
        "categories": [{"id": 1, "name": "person"}],
        "annotations": [{**annotation, "iscrowd": 0, "keypoints": keypoints, "num_keypoints": 17}],
    }
    instances = Instances((40, 40))
    instances.pred_boxes = Boxes(torch.tensor([[2.0, 2.0, 32.0, 32.0]]))
    instances.scores, instances.pred_classes = torch.tensor([0.9]), torch.tensor([0])
    instances.pred_keypoints = torch.tensor(keypoints).reshape(1, 17, 3) + 0.5
    results = run(FastCOCOEvaluator(registered(dataset)), {1: instances})
    assert list(results) == ["bbox", "keypoints"]
    assert results["keypoints"]["AP"] == pytest.approx(100)


def test_data_without_annotations_gets_a_file_of_results(registered: Any, tmp_path: Path) -> None:
    case = random_case(RICH)
    outputs = instances_of(case)
    name = registered({key: case[0][key] for key in ("images", "categories")})
    assert run(FastCOCOEvaluator(name, str(tmp_path)), outputs) == {}
    assert len(json.loads((tmp_path / RESULTS_FILE).read_text())) == len(case[1])


def test_a_class_that_the_data_does_not_have(registered: Any) -> None:
    case = random_case(RICH)
    outputs = instances_of(case)
    instances = next(each for each in outputs.values() if len(each))
    instances.pred_classes[0] = 4
    with pytest.raises(ConfigError, match=r"the class 4, but .* has 4 classes"):
        run(FastCOCOEvaluator(registered(case[0])), outputs)


# -------------------------------------------------------------------------------- file, processes


@pytest.mark.parametrize("old", [None, "[]"])
def test_the_file_is_whole_or_not_there(tmp_path: Path, old: str | None) -> None:
    file = tmp_path / RESULTS_FILE
    if old is not None:
        file.write_text(old)

    def results() -> Iterator[list[dict[str, Any]]]:
        yield [{"image_id": 1}]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_results(str(file), results())
    assert [path.name for path in tmp_path.iterdir()] == ([] if old is None else [RESULTS_FILE])
    assert old is None or file.read_text() == old


def worker(rank: int, folder: Path) -> None:
    case = random_case(RICH)
    register_coco_instances("parts", {}, f"{folder}/coco_evaluator_0.json", str(folder))
    DatasetCatalog.get("parts")
    own = dict(list(instances_of(case).items())[rank::2])
    results = run(FastCOCOEvaluator("parts", f"{folder}/two"), own)
    torch.save(results, f"{folder}/{rank}.pth")


@pytest.mark.slow
def test_two_processes_equal_one(registered: Any, tmp_path: Path) -> None:
    case = random_case(RICH)
    wanted = run(FastCOCOEvaluator(registered(case[0]), str(tmp_path / "one")), instances_of(case))
    spawn_two(worker, tmp_path)
    assert_same(torch.load(tmp_path / "0.pth"), wanted)
    assert torch.load(tmp_path / "1.pth") == {}
    files = [json.loads((tmp_path / part / RESULTS_FILE).read_text()) for part in ("one", "two")]
    one, two = (sorted(map(json.dumps, results)) for results in files)
    assert one == two
