"""The evaluator on embedded data, and the same with two processes (gloo)."""

import contextlib
import copy
import json
import logging
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from instseg_d2.config import get_cfg
from instseg_d2.data.image_proposals import ImageProposals
from instseg_d2.errors import ConfigError, DataError
from instseg_d2.rle_masks import RLEMasks
from sharpmask_d2.proposal_evaluation import ProposalEvaluator, build_proposal_evaluator
from sharpmask_d2.proposal_recall import BOXES, MASKS
from sharpmask_d2.recall import AREA_RANGES
from sharpmask_d2.recall_report import DEFAULT_LIMITS, metric_names
from tests.sharpmask_d2.recall_cases import (
    HEIGHT,
    WIDTH,
    coco_recalls,
    our_recall,
    random_content,
    random_proposals,
)
from tests.two_processes import spawn_two

Dataset = tuple[str, dict[str, Any], list[ImageProposals]]


@contextlib.contextmanager
def registered(folder: Path, content: dict[str, Any]) -> Iterator[str]:
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    name = f"random_{folder.name}"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).json_file = str(path)
    try:
        yield name
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[Dataset]:
    generator = np.random.default_rng(5)
    content = random_content(generator, num_images=8)
    with registered(tmp_path, content) as name:
        yield name, content, random_proposals(generator, content)


def instances_of(image: ImageProposals) -> Instances:
    instances = Instances((HEIGHT, WIDTH))
    instances.proposal_boxes = Boxes(torch.from_numpy(image.boxes))
    instances.objectness_logits = torch.from_numpy(image.scores).float()
    if image.rles is not None:
        instances.pred_masks = RLEMasks(image.rles, (HEIGHT, WIDTH))
    return instances


def process(evaluator: ProposalEvaluator, images: list[ImageProposals]) -> None:
    inputs = [{"image_id": image.image_id} for image in images]
    evaluator.process(inputs, [{"proposals": instances_of(image)} for image in images])


def assert_same(results: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(results) == list(expected)
    for task, metrics in expected.items():
        assert results[task] == pytest.approx(metrics, nan_ok=True)


def empty(image: ImageProposals, rles: list[Any] | None) -> ImageProposals:
    return replace(image, boxes=image.boxes[:0], scores=image.scores[:0], rles=rles)


def without_masks(images: list[ImageProposals]) -> list[ImageProposals]:
    return [replace(image, rles=None) for image in images]


# ------------------------------------------------------------------------------------ numbers


def test_results_are_those_of_pycocotools(dataset: Dataset) -> None:
    name, content, images = dataset
    evaluator = ProposalEvaluator(name, limits=(3, 10))
    process(evaluator, images[:5])
    process(evaluator, images[5:])
    results = evaluator.evaluate()
    recalls = coco_recalls(copy.deepcopy(content), images, (1, 3, 10))
    assert list(results) == [BOXES, MASKS]
    for task, metrics in results.items():
        averages = 100 * recalls[task].mean(axis=0)  # area ranges x limits
        for letter, row in zip(("", "s", "m", "l"), averages, strict=True):
            assert metrics[f"AR{letter}@3"] == pytest.approx(row[1], abs=1e-10, nan_ok=True)
            assert metrics[f"AR{letter}@10"] == pytest.approx(row[2], abs=1e-10, nan_ok=True)
        assert metrics["mean AR"] == pytest.approx(averages[0, 1:].mean())
        assert 0 < metrics["AUC"] < 100
    assert len(metrics) == 4 * 2 + 2


def test_perfect_proposals_find_everything_that_one_can(tmp_path: Path) -> None:
    content = random_content(np.random.default_rng(1), num_images=4)
    for annotation in content["annotations"]:
        annotation["iscrowd"], annotation["area"] = 0, 100
        annotation["bbox"] = [2, 3, 10, 12]  # objects without extent cannot be found
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 2]
    with registered(tmp_path, content) as name:
        evaluator = ProposalEvaluator(name)
        for image in content["images"]:
            number = sum(a["image_id"] == image["id"] for a in content["annotations"])
            boxes = np.tile(np.float32([2, 3, 12, 15]), (number, 1))
            process(evaluator, [ImageProposals(image["id"], boxes, np.zeros(number))])
        metrics = evaluator.evaluate()[BOXES]
    assert list(metrics) == metric_names(DEFAULT_LIMITS)
    assert metrics["AR@1000"] == metrics["ARs@10"] == 100
    assert math.isnan(metrics["ARl@100"])


def test_boxes_alone_are_evaluated_as_boxes_alone(dataset: Dataset) -> None:
    name, _, images = dataset
    with_masks, boxes_only = ProposalEvaluator(name), ProposalEvaluator(name)
    process(with_masks, images)
    process(boxes_only, without_masks(images))
    results = boxes_only.evaluate()
    assert list(results) == [BOXES]
    assert results[BOXES] == pytest.approx(with_masks.evaluate()[BOXES], nan_ok=True)


def test_an_empty_answer_may_lack_the_masks(dataset: Dataset) -> None:
    name, _, images = dataset
    expected, evaluator = ProposalEvaluator(name), ProposalEvaluator(name)
    process(expected, [empty(images[0], []), *images[1:]])
    process(evaluator, [empty(images[0], None), *images[1:]])
    assert_same(evaluator.evaluate(), expected.evaluate())


def test_finding_nothing_at_all_is_zero(dataset: Dataset) -> None:
    name, _, images = dataset
    evaluator = ProposalEvaluator(name)
    process(evaluator, [empty(image, []) for image in images])
    results = evaluator.evaluate()
    assert list(results) == [BOXES, MASKS]
    assert {value for metrics in results.values() for value in metrics.values()} == {0}


def test_objects_of_images_that_never_came_are_missed(dataset: Dataset) -> None:
    name, content, images = dataset
    evaluator = ProposalEvaluator(name, limits=(10,))
    process(evaluator, images[:3])
    nothing = [empty(image, []) for image in images[3:]]
    recall, truth = our_recall(content, images[:3] + nothing)
    results = evaluator.evaluate()
    for task, counts in recall.results(truth).items():
        assert results[task]["AR@10"] == pytest.approx(100 * counts.average_recalls()[9])
        assert results[task]["AR@10"] > 0
    assert "5 images had no proposals given" in evaluator_report(evaluator)


def evaluator_report(evaluator: ProposalEvaluator) -> str:
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    logger = logging.getLogger("sharpmask_d2.proposal_evaluation")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        evaluator.evaluate()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return "\n".join(record.getMessage() for record in records)


def test_nothing_processed_gives_no_results(dataset: Dataset) -> None:
    assert ProposalEvaluator(dataset[0]).evaluate() == {}


def test_reset_forgets(dataset: Dataset) -> None:
    name, _, images = dataset
    evaluator = ProposalEvaluator(name)
    process(evaluator, images)
    first = evaluator.evaluate()
    evaluator.reset()
    process(evaluator, images)
    assert_same(evaluator.evaluate(), first)


# ------------------------------------------------------------------------------ what is reported


def test_the_table_names_data_and_settings(dataset: Dataset) -> None:
    name, content, images = dataset
    evaluator = ProposalEvaluator(name, limits=(5, 10))
    process(evaluator, images)
    table = evaluator_report(evaluator)
    objects = sum(not a["iscrowd"] and a["area"] <= 1e10 for a in content["annotations"])
    assert f"on {name}: 8 images, {objects} objects" in table
    assert f"{np.mean([len(image) for image in images]):.1f} proposals an image" in table
    for task in ("boxes", "masks"):
        for area in AREA_RANGES:
            assert f"{task}, {area}" in table
    assert "AR@5" in table
    assert "nan" not in table.split("masks, all")[1].split("\n")[0]


def test_numbers_and_curves_are_written(dataset: Dataset, tmp_path: Path) -> None:
    name, _, images = dataset
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(tmp_path / "run")
    evaluator = build_proposal_evaluator(cfg, name)
    process(evaluator, images)
    results = evaluator.evaluate()
    folder = tmp_path / "run" / "inference"
    content = json.loads((folder / "proposal_recall.json").read_text())
    for task, metrics in results.items():
        expected = {key: None if math.isnan(value) else value for key, value in metrics.items()}
        assert content[task] == expected
        curve = content["curves"][task]["all"]["average_recall"]
        assert len(curve) == 1000
        assert curve[99] == pytest.approx(metrics["AR@100"])
        at = content["curves"][task]["all"]["recall_at"]["10"]
        assert np.mean(at) == pytest.approx(metrics["AR@10"])
    assert content["limits"] == [10, 100, 1000]
    assert content["images"] == 8
    assert {path.name for path in folder.iterdir()} == {
        "proposal_recall.json", "recall_against_iou.png", "recall_against_count.png"
    }  # fmt: skip


def test_objects_without_masks_count_as_boxes_only(dataset: Dataset, tmp_path: Path) -> None:
    _, content, images = dataset
    kept = [a for a in content["annotations"] if a["id"] % 2]
    for annotation in content["annotations"]:
        if annotation not in kept:
            del annotation["segmentation"]
    lost = sum(not a["iscrowd"] and "segmentation" not in a for a in content["annotations"])
    (tmp_path / "half").mkdir()
    (tmp_path / "less").mkdir()
    with registered(tmp_path / "half", content) as name:
        evaluator = ProposalEvaluator(name)
        process(evaluator, images)
        results = evaluator.evaluate()
        assert f"{lost} objects have no mask" in evaluator_report(evaluator)
    with registered(tmp_path / "less", {**content, "annotations": kept}) as name:
        evaluator = ProposalEvaluator(name)
        process(evaluator, images)
        assert results[MASKS] == pytest.approx(evaluator.evaluate()[MASKS], nan_ok=True)


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("limits", [(), (0, 10), (-1,), (2.5,)])
def test_impossible_limits(dataset: Dataset, limits: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="whole numbers above 0"):
        ProposalEvaluator(dataset[0], limits=limits)


def test_an_unknown_image_is_named(dataset: Dataset) -> None:
    name, _, images = dataset
    with pytest.raises(DataError, match=rf"image id 99, which {name} does not have"):
        process(ProposalEvaluator(name), [replace(images[0], image_id=99)])


def test_an_image_that_comes_twice_is_named(dataset: Dataset) -> None:
    name, _, images = dataset
    evaluator = ProposalEvaluator(name)
    with pytest.raises(DataError, match="image id 1 has come twice"):
        process(evaluator, [images[0], images[0]])


def test_an_image_in_two_parts_is_named(dataset: Dataset) -> None:
    _, content, images = dataset
    parts = [our_recall(content, images[:3])[0], our_recall(content, images[2:])[0]]
    with pytest.raises(DataError, match="image id '3' has come twice"):
        parts[0].merge(parts[1])


def spoilt(image: ImageProposals, **more: Any) -> Instances:
    instances = instances_of(image)
    for name, value in more.items():
        instances.remove(name)
        instances.set(name, value)
    return instances


def test_what_cannot_be_evaluated_is_named(dataset: Dataset) -> None:
    name, _, images = dataset
    image, number = images[0], len(images[0])
    logits = torch.zeros(number)
    logits[0] = math.nan
    boxes = torch.zeros(number, 4)
    boxes[0, 2] = math.inf
    small = mask_util.encode(np.ones((HEIGHT, WIDTH - 1), np.uint8, order="F"))
    cases = {
        "not a number": spoilt(image, objectness_logits=logits),
        "infinite": spoilt(image, proposal_boxes=Boxes(boxes)),
        rf"\({HEIGHT}, {WIDTH - 1}\), but the image is \({HEIGHT}, {WIDTH}\)": spoilt(
            image, pred_masks=RLEMasks([small] * number, (HEIGHT, WIDTH - 1))
        ),
        "masks of type Tensor": spoilt(image, pred_masks=torch.zeros(number, HEIGHT, WIDTH)),
    }
    for message, instances in cases.items():
        evaluator = ProposalEvaluator(name)
        with pytest.raises(DataError, match=rf"image id 1\b.*{message}"):
            evaluator.process([{"image_id": 1}], [{"proposals": instances}])
        process(evaluator, images)  # the bad answer has left nothing behind


def test_masks_and_boxes_mixed_are_refused(dataset: Dataset) -> None:
    name, _, images = dataset
    full = [image for image in images if len(image)]
    evaluator = ProposalEvaluator(name)
    process(evaluator, [full[0], *without_masks(full[1:2])])
    with pytest.raises(DataError, match=f"image id {full[1].image_id} only boxes"):
        evaluator.evaluate()


# -------------------------------------------------------------------------------- two processes


def worker(rank: int, folder: Path, images: list[ImageProposals]) -> None:
    """One process evaluates every second image, and then, in vain, one that the other has too."""
    name = "distributed"
    DatasetCatalog.register(name, list)
    MetadataCatalog.get(name).json_file = f"{folder}/annotations.json"
    evaluator = ProposalEvaluator(name)
    process(evaluator, images[rank::2])
    results = evaluator.evaluate()
    evaluator.reset()
    process(evaluator, [images[1], images[2 + rank]])
    message = ""
    try:
        evaluator.evaluate()
    except DataError as error:
        message = str(error)
    torch.save((results, message), f"{folder}/{rank}.pth")


@pytest.mark.slow
def test_two_processes_equal_one_and_share_no_image(dataset: Dataset, tmp_path: Path) -> None:
    name, _, images = dataset
    evaluator = ProposalEvaluator(name)
    process(evaluator, images)
    spawn_two(worker, tmp_path, images)
    results, message = torch.load(tmp_path / "0.pth")
    assert_same(results, evaluator.evaluate())
    assert "image id '2' has come twice" in message
    assert torch.load(tmp_path / "1.pth") == (None, "")
