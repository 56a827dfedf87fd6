import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO

from instseg_d2.demo.results import Entry, entry_of, write_result_files


def found(count: int) -> Instances:
    result = Instances((10, 20))
    result.pred_boxes = Boxes(torch.tensor([[1.0, 2.0, 5.0, 8.0]]).repeat(count, 1))
    result.scores = torch.full((count,), 0.5)
    result.pred_classes = torch.ones(count, dtype=torch.int64)
    return result


def load(path: Path) -> object:
    return json.loads(path.read_text())


def test_both_files_can_be_read_by_cocos_tools(tmp_path: Path) -> None:
    ids = [4, 9]
    entries = [
        ('a "b"\udcff.png', entry_of(found(2), (10, 20), ids)),
        ("empty.png", entry_of(found(0), (10, 20), ids)),
        ("large.png", entry_of(found(1), (100, 200), ids)),
    ]
    write_result_files(tmp_path, ("disc", "ring"), ids, json.loads(json.dumps(entries)))
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
    write_result_files(tmp_path, (), None, [])
    assert load(tmp_path / "predictions.json") == []
    assert load(tmp_path / "images.json") == {
        "annotations": [], "categories": [{"id": 1, "name": "object"}], "images": [],
    }  # fmt: skip


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "predictions.json").write_text("old")

    def entries() -> Iterator[tuple[str, Entry]]:
        yield "a.png", entry_of(found(1), (10, 20), None)
        assert [path.name for path in tmp_path.glob("*.json")] == ["predictions.json"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_result_files(tmp_path, ("disc",), None, entries())
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.json"]
    assert (tmp_path / "predictions.json").read_text() == "old"
