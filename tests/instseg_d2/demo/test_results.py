import json
from pathlib import Path

import pytest
import torch
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO

from instseg_d2.demo.results import ResultFiles


def found(count: int) -> Instances:
    result = Instances((10, 20))
    result.pred_boxes = Boxes(torch.tensor([[1.0, 2.0, 5.0, 8.0]]).repeat(count, 1))
    result.scores = torch.full((count,), 0.5)
    result.pred_classes = torch.ones(count, dtype=torch.int64)
    return result


def load(path: Path) -> object:
    return json.loads(path.read_text())


def test_both_files_can_be_read_by_cocos_tools(tmp_path: Path) -> None:
    with ResultFiles(tmp_path, ("disc", "ring"), (4, 9)) as files:
        files.add('a "b"\udcff.png', found(2), (10, 20))
        files.add("empty.png", found(0), (10, 20))
        files.add("large.png", found(1), (100, 200))
        assert list(tmp_path.glob("*.json")) == []
    assert files.count == 3
    truth = COCO(str(tmp_path / "images.json"))
    results = truth.loadRes(str(tmp_path / "predictions.json"))
    assert truth.getImgIds() == [1, 2, 3]
    assert truth.loadImgs(3)[0] == {
        "id": 3, "file_name": "large.png", "height": 100, "width": 200,
    }  # fmt: skip
    assert [category["name"] for category in truth.loadCats([4, 9])] == ["disc", "ring"]
    assert len(results.getAnnIds(imgIds=1)) == 2
    assert results.loadAnns(results.getAnnIds(imgIds=3))[0]["bbox"] == [10, 20, 40, 60]
    assert {each["category_id"] for each in results.dataset["annotations"]} == {9}


def test_no_image_at_all(tmp_path: Path) -> None:
    with ResultFiles(tmp_path, (), None):
        pass
    assert load(tmp_path / "predictions.json") == []
    assert load(tmp_path / "images.json") == {
        "annotations": [], "categories": [{"id": 1, "name": "object"}], "images": [],
    }  # fmt: skip


def test_a_broken_off_run_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "predictions.json").write_text("old")

    def run() -> None:
        with ResultFiles(tmp_path, ("disc",), None) as files:
            files.add("a.png", found(1), (10, 20))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.json"]
    assert (tmp_path / "predictions.json").read_text() == "old"
