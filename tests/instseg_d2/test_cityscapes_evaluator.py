"""Figures of Cityscapes' own scripts, for masks whose figures are known."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from instseg_d2.cityscapes_evaluator import CityscapesEvaluator
from instseg_d2.rle_masks import RLEMasks

pytest.importorskip("cityscapesscripts")

NAME = "made_cityscapes"
CLASSES = ["person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"]
PERSON, CAR = 24, 26
"""Cityscapes' ids of labels."""

SIZE = (60, 100)
OBJECTS = {PERSON * 1000: (5, 10), PERSON * 1000 + 1: (5, 60), CAR * 1000: (30, 30)}
"""Number of an instance -> top and left of a square of 20 pixels."""


def square(top: int, left: int, side: int = 20) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The only one of :data:`NAME`."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "gt" / "bonn"
    folder.mkdir(parents=True)
    numbers = np.zeros(SIZE, np.uint16)
    for number, place in OBJECTS.items():
        numbers[square(*place) > 0] = number
    cv2.imwrite(str(folder / "bonn_000000_000019_gtFine_instanceIds.png"), numbers)
    MetadataCatalog.get(NAME).set(gt_dir=str(tmp_path / "gt"), thing_classes=CLASSES)
    yield str(tmp_path / "bonn_000000_000019_leftImg8bit.png")
    MetadataCatalog.remove(NAME)


def found(masks: list[np.ndarray], classes: list[int], scores: list[float]) -> Instances:
    instances = Instances(SIZE)
    instances.pred_boxes = Boxes(torch.zeros(len(masks), 4))
    instances.scores, instances.pred_classes = torch.tensor(scores), torch.tensor(classes)
    rles = [mask_util.encode(np.asfortranarray(mask)) for mask in masks]
    instances.pred_masks = RLEMasks(rles, SIZE)
    return instances


def evaluate(image: str, instances: Instances) -> dict[str, float]:
    evaluator = CityscapesEvaluator(NAME)
    evaluator.reset()
    evaluator.process([{"file_name": image}], [{"instances": instances}])
    results = evaluator.evaluate()
    assert results is not None
    return results["segm"]


def test_all_is_found(image: str, tmp_path: Path) -> None:
    masks = [square(*place) for place in OBJECTS.values()]
    before = sorted(tmp_path.iterdir())
    assert evaluate(image, found(masks, [0, 0, 2], [0.9, 0.8, 0.7])) == {"AP": 100, "AP50": 100}
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_part_is_found(image: str, as_tensor: bool) -> None:
    """The first person whole, the second not; of the car 81 %, which counts at .5 to .8."""
    persons, car = [square(*place) for place in OBJECTS.values()][:2], square(30, 30, 18)
    instances = found([persons[0], car], [0, 2], [0.9, 0.9])
    if as_tensor:
        instances.pred_masks = torch.from_numpy(np.stack([persons[0], car]) > 0)
    results = evaluate(image, instances)
    whole_car = evaluate(image, found([persons[0], square(30, 30)], [0, 2], [0.9, 0.9]))
    assert results["AP50"] == whole_car["AP50"] > 70
    # Half of the mean over classes is the car's, whose AP is 7 thresholds of 10.
    assert whole_car["AP"] - results["AP"] == pytest.approx(100 * 0.3 / 2)


def test_all_that_is_found_lies_where_it_is_ignored(image: str) -> None:
    """In pixels without a label; with another class nothing of it changes."""
    beside = square(35, 70, 15)
    assert evaluate(image, found([beside], [0], [0.9])) == {"AP": 0, "AP50": 0}
    car = square(30, 30)
    assert evaluate(image, found([beside, car], [0, 2], [0.9, 0.8])) == {"AP": 50, "AP50": 50}


def test_nothing_is_found(image: str) -> None:
    assert evaluate(image, found([], [], [])) == {"AP": 0, "AP50": 0}
