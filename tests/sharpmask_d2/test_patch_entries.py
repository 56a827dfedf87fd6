import copy
import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from detectron2.structures import BoxMode
from pycocotools import mask as mask_util

from instseg_d2.errors import DataError
from sharpmask_d2.patch_entries import mask_area, object_box, training_entries, visible_box
from sharpmask_d2.patch_entries import testing_entries as held_out_entries
from sharpmask_d2.patch_sampling import SamplingOptions

OPTIONS = SamplingOptions(test_patches=200)
SQUARE = [10.0, 10, 30, 10, 30, 30, 10, 30]


def annotation(**changes: object) -> dict:
    """A square of 20 x 20 pixels."""
    return {
        "segmentation": [SQUARE], "bbox": [10, 10, 20, 20], "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0, "iscrowd": 0, **changes,
    }  # fmt: skip


def record(name: str, *annotations: dict) -> dict:
    return {
        "file_name": name, "image_id": name, "height": 60, "width": 80,
        "annotations": list(annotations),
    }  # fmt: skip


def rectangle(width: float, height: float) -> dict:
    polygon = [0, 0, width, 0, width, height, 0, height]
    return annotation(segmentation=[polygon], bbox=[0, 0, width, height])


def test_one_entry_for_each_object_that_can_be_drawn() -> None:
    dicts = [
        record("a", annotation(iscrowd=1), annotation(category_id=3), annotation(category_id=1)),
        record("b"),
        {"file_name": "no key"},
        record("c", rectangle(9.9, 10), rectangle(10, 10), rectangle(4.9, 50), rectangle(5, 50)),
        record("d", annotation(segmentation=[]), annotation(category_id=1)),
    ]
    before = copy.deepcopy(dicts)
    entries = training_entries(dicts, OPTIONS)
    drawn = [
        (e["record"]["file_name"], e["annotation"]) for e in map(entries.__getitem__, range(5))
    ]
    assert len(entries) == 5
    assert drawn == [("a", 1), ("a", 2), ("c", 1), ("c", 3), ("d", 1)]
    assert entries.categories.tolist() == [2, 1, 0, 0, 1]  # the ids 3, 1 and 0
    assert entries[0]["record"] == before[0]
    assert dicts == before


def test_an_image_is_held_once_for_all_its_objects() -> None:
    """Else every object of COCO would bring the outlines of all others of its image."""
    one = len(pickle.dumps(training_entries([record("a", annotation())], OPTIONS)))
    crowded = [record("a", *[annotation() for _ in range(100)])]
    assert len(pickle.dumps(training_entries(crowded, OPTIONS))) < 20 * one


def test_boxes_of_both_modes() -> None:
    assert object_box(annotation()) == (10, 10, 30, 30)
    assert object_box(annotation(bbox_mode=BoxMode.XYXY_ABS)) == (10, 10, 20, 20)
    assert object_box(annotation(bbox=np.array([1.5, 2, 3, 4]))) == (1.5, 2, 4.5, 6)


def test_areas_of_all_codes() -> None:
    assert mask_area([SQUARE]) == 400
    assert mask_area([SQUARE[::-1], np.array([0, 0, 4, 0, 0, 4]), [1, 1, 2, 2], []]) == 408
    compressed = mask_util.merge(mask_util.frPyObjects([SQUARE], 60, 80))
    assert mask_area(compressed) == 400
    assert mask_area({"size": [60, 80], "counts": [100, 50, 4000, 20, 630]}) == 70


def test_an_area_that_the_data_states_is_believed() -> None:
    dicts = [record("a", annotation(area=99), annotation(area=100))]
    assert len(training_entries(dicts, OPTIONS)) == 1


@pytest.mark.parametrize(
    ("dicts", "message"),
    [
        ([], "no images"),
        ([record("a.jpg"), record("b.jpg")], r"2 image\(s\), .*a\.jpg.*no annotated object"),
        ([record("a.jpg", annotation(iscrowd=1))], "crowds aside"),
        ([record("a.jpg", annotation(segmentation=None))], r"a\.jpg.* none of the 1 .*only boxes"),
        ([record("a.jpg", rectangle(3, 50))], r"a\.jpg.* too small.*MIN_AREA is 100.*MIN_SIDE 5"),
    ],
)
def test_data_without_anything_to_learn_from(dicts: list[dict], message: str) -> None:
    for build in (training_entries, held_out_entries):
        with pytest.raises(DataError, match=message):
            build(dicts, OPTIONS)


def test_objects_with_boxes_only() -> None:
    boxes = [annotation() for _ in range(3)]
    for box in boxes:
        del box["segmentation"]
    with pytest.raises(DataError, match="only boxes"):
        training_entries([record("a", *boxes)], OPTIONS)


@pytest.mark.parametrize(
    "changes",
    [
        {"segmentation": [[0, 0, 9, 0, float("nan"), 9]]},
        {"segmentation": [[0, 0, 9, 0, float("inf"), 9]]},
        {"segmentation": [[0, 0, 9, 0, 9, 9, 9]]},
        {"segmentation": [["x"] * 6]},
        {"segmentation": {"size": [60, 80]}},
        {"bbox": [0, 0, float("nan"), 9]},
        {"bbox": [0, 0, 9]},
        {"bbox": None},
        {"category_id": None},
    ],
)
def test_damaged_annotations_name_the_image(changes: dict) -> None:
    with pytest.raises(DataError, match=r"dir/a\.jpg \(image id dir/a\.jpg\)"):
        training_entries([record("dir/a.jpg", annotation(), annotation(**changes))], OPTIONS)


@pytest.mark.parametrize(
    "changes",
    [{"bbox": None}, {"bbox": []}, {"bbox_mode": None}, {"bbox": [0, 0, float("inf"), 9]}],
)
@pytest.mark.parametrize("kind", [{"iscrowd": 1}, {"segmentation": []}])
def test_boxes_of_what_is_not_drawn_must_be_sound(changes: dict, kind: dict) -> None:
    """They keep negatives away; a training would end when it comes to such an image."""
    dicts = [record("dir/a.jpg", annotation(), annotation(**changes, **kind))]
    with pytest.raises(DataError, match=r"dir/a\.jpg \(image id dir/a\.jpg\)"):
        training_entries(dicts, OPTIONS)
    del dicts[0]["annotations"][1]["bbox"]
    assert len(training_entries(dicts, OPTIONS)) == 1


def test_objects_end_with_their_image() -> None:
    """4 pixels of a box's 50 are inside, so its side is too short; then all of it outside."""
    thin = annotation(bbox=[76, 10, 50, 20], area=1000)
    outside = annotation(bbox=[90, 10, 20, 20])
    dicts = [record("a", annotation(bbox=[75, -10, 50, 60]), thin, outside)]
    entries = training_entries(dicts, OPTIONS)
    assert len(entries) == 1
    assert visible_box(dicts[0]["annotations"][0], dicts[0]) == (75, 0, 80, 50)
    del dicts[0]["width"], dicts[0]["height"]  # known when the image is read
    assert len(training_entries(dicts, OPTIONS)) == 3


def test_vocabularies_tell_equal_ids_apart() -> None:
    ids = [(0, 3), (1, 3), (1, 0), (0, 3)]
    dicts = [{**record("a", annotation(category_id=c)), "vocabulary": v} for v, c in ids]
    assert training_entries(dicts, OPTIONS).categories.tolist() == [0, 2, 1, 0]


def test_held_out_objects_have_limits_of_their_own() -> None:
    dicts = [record("a", rectangle(20, 20), rectangle(8, 8))]
    small = replace(OPTIONS, test_min_area=60)
    large = replace(OPTIONS, min_area=1e6, min_side=1e3)

    def drawn(options: SamplingOptions) -> set[int]:
        patches = held_out_entries(dicts, options)
        return {patches[i]["annotation"] for i in range(200)}

    assert drawn(large) == drawn(OPTIONS) == {0}
    assert drawn(small) == {0, 1}
    with pytest.raises(DataError, match=r"too small to evaluate on.*\.TEST_MIN_AREA is 1e"):
        held_out_entries(dicts, replace(OPTIONS, test_min_area=1e6))


def test_held_out_patches_are_fixed_and_balanced() -> None:
    objects = [annotation(category_id=0) for _ in range(19)] + [annotation(category_id=5)]
    dicts = [record(str(i), entry) for i, entry in enumerate(objects)]
    patches = held_out_entries(dicts, OPTIONS)
    items = [patches[i] for i in range(len(patches))]
    assert Counter(item["draw"] for item in items) == {"mask": 100, "positive": 50, "negative": 50}
    assert len({item["seed"] for item in items}) == 200
    of_the_rare = sum(item["record"]["file_name"] == "19" for item in items)
    assert 70 <= of_the_rare <= 130
    np.random.seed(77)
    again = held_out_entries(dicts, OPTIONS)
    assert [again[i] for i in range(200)] == items
    others = held_out_entries(dicts, replace(OPTIONS, test_seed=1))
    assert {others[i]["seed"] for i in range(200)}.isdisjoint(item["seed"] for item in items)
