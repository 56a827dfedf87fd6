import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from instseg_d2.data.shapes import ShapesSpec
from instseg_d2.data.shapes_dataset import register_shapes
from instseg_d2.errors import DataError
from sharpmask_d2.recall_objects import (
    GroundTruth,
    dataset_ground_truth,
    read_ground_truth,
    rle_of,
)
from tests.coco_sample import SQUARE, coco


def changed(index: int = 0, **more: Any) -> dict[str, Any]:
    content = coco()
    content["annotations"][index].update(more)
    return content


def test_objects_stand_by_category_and_then_as_in_the_file() -> None:
    content = coco()
    content["annotations"] = [
        {**content["annotations"][0], "id": number, "category_id": category}
        for number, category in ((1, 7), (2, 3), (3, 7), (4, 3))
    ]
    truth = GroundTruth(content, "test")
    assert truth[11].annotation_ids == (2, 4, 1, 3)
    assert truth[12].annotation_ids == ()
    assert truth[12].boxes.shape == (0, 4)
    assert len(truth) == 2


def test_crowds_are_left_out_and_ignore_has_no_meaning() -> None:
    assert GroundTruth(coco(), "test")[12].annotation_ids == ()
    assert GroundTruth(changed(ignore=1), "test")[11].annotation_ids == (101, 102)


def test_what_may_lack() -> None:
    content = coco()
    for annotation in content["annotations"]:
        del annotation["area"], annotation["iscrowd"]
    del content["annotations"][1]["segmentation"]
    del content["categories"]
    content["annotations"][1]["bbox"] = [0, 0, 3, 5]
    truth = GroundTruth(content, "test")
    square = mask_util.area(mask_util.frPyObjects([SQUARE], 10, 12)[0])
    assert truth[11].areas.tolist() == [square, 15]
    assert truth[12].areas.tolist() == [50]  # the run-length code has no mark of a crowd
    assert truth[11].has_mask.tolist() == [True, False]
    assert len(truth[11].rles()) == 1


def test_masks_are_those_of_pycocotools() -> None:
    polygons = [SQUARE, [10, 0, 12, 0, 12, 2], [1.0, 1.0, 2.0, 2.0]]
    merged = mask_util.merge(mask_util.frPyObjects(polygons, 10, 12))
    counts = [20, 50, 50]
    plain = {"size": [10, 12], "counts": counts}
    packed = mask_util.frPyObjects(plain, 10, 12)
    for segmentation, expected in ((polygons, merged), (plain, packed), (packed, packed)):
        assert rle_of(segmentation, (10, 12), "") == expected


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 1, 2, 2]], "4 coordinates"),
        ([SQUARE, [1, 1, math.nan, 2, 3, 3]], "finite"),
        ([SQUARE, ["a"]], "flat list of numbers"),
        ({"size": [10, 10], "counts": [100]}, "height, width"),
        ({"size": [10, 12], "counts": [100]}, "100 pixels"),
        ({"counts": [100]}, "lacks"),
        ("text", "is a str"),
    ],
)
def test_masks_that_would_crash_pycocotools_are_named(segmentation: Any, message: str) -> None:
    truth = GroundTruth(changed(1, segmentation=segmentation), "test")
    with pytest.raises(DataError, match=rf"annotation id 102 of image id 11: .*{message}"):
        truth[11].rles()


def test_image_ids_may_be_text() -> None:
    content = coco()
    content["images"][1]["id"] = content["annotations"][2]["image_id"] = "b"
    truth = GroundTruth(content, "test")
    assert truth["11"] is truth[11]
    assert truth["b"].image_id == "b"
    with pytest.raises(DataError, match=r"image id 'c', which test does not have .*11"):
        truth["c"]


def test_some_of_the_images() -> None:
    part = GroundTruth(coco(), "test").only(["12"])
    assert [objects.image_id for objects in part] == [12]
    assert part.name == "test (1 of its 2 images)"


def broken_cases() -> list[tuple[dict[str, Any], str]]:
    twice, no_size, no_box = coco(), coco(), coco()
    twice["images"][1]["id"] = 11
    del no_size["images"][1]["width"]
    del no_box["annotations"][0]["bbox"]
    return [
        (twice, "two images .* id 11"),
        (no_size, "image 12 .* lacks width"),
        (no_box, "annotation id 101 lacks bbox"),
        (changed(bbox=[1, 2, 3]), r"annotation id 101 of image id 11: 'bbox' is \[1, 2, 3\]"),
        (changed(bbox=[1, 2, 3, math.nan]), "'bbox'"),
        (changed(category_id=4), "annotation id 101 has category_id 4"),
        ({"images": [], "annotations": []}, "no images"),
        ({"images": coco()["images"]}, "no list 'annotations'"),
        ({**coco(), "images": [5]}, "cannot be used|lacks"),
    ]


@pytest.mark.parametrize(("content", "message"), broken_cases())
def test_broken_files_are_explained(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        read_ground_truth(str(path))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'mine': .*nowhere\.json does not exist"):
        read_ground_truth(str(tmp_path / "nowhere.json"), "mine")


# ----------------------------------------------------------------------------- registered data


def test_an_unknown_data_set() -> None:
    with pytest.raises(DataError, match="'no_such_data' is not registered"):
        dataset_ground_truth("no_such_data")


def test_data_in_coco_format_is_read_from_its_file() -> None:
    _, val = register_shapes(ShapesSpec(num_train=1, num_val=4, image_size=64))
    truth = dataset_ground_truth(val)
    content = json.loads(Path(MetadataCatalog.get(val).json_file).read_text())
    objects = [a for a in content["annotations"] if not a["iscrowd"]]
    assert sum(len(image.areas) for image in truth) == len(objects) > 0
    assert truth.name == val


def test_other_data_is_converted_as_detectron2_does() -> None:
    records = [
        {
            "file_name": "a.png", "image_id": "a", "height": 10, "width": 12,
            "annotations": [
                {"bbox": [1, 1, 9, 9], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0,
                 "segmentation": [SQUARE]},
                {"bbox": [2, 3, 4, 5], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0},
            ],
        }
    ]  # fmt: skip
    DatasetCatalog.register("converted", lambda: copy.deepcopy(records))
    try:
        with pytest.raises(DataError, match="thing_classes"):
            dataset_ground_truth("converted")
        MetadataCatalog.get("converted").thing_classes = ["thing"]
        objects = dataset_ground_truth("converted")["a"]
    finally:
        DatasetCatalog.remove("converted")
        MetadataCatalog.remove("converted")
    np.testing.assert_array_equal(objects.boxes, [[1, 1, 8, 8], [2, 3, 4, 5]])
    assert objects.areas.tolist() == [64, 20]
    assert objects.has_mask.tolist() == [True, False]
