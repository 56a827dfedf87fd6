import copy
import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instseg_d2.data.coco_json import Faults, check_coco_json, find_annotation_id, read_coco_json
from instseg_d2.data.segmentation_checks import polygon_problem, rle_pixel_count, rle_problem
from instseg_d2.errors import DataError
from tests.coco_sample import SQUARE, coco


def check(content, path, purpose="training"):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    check_coco_json(str(path), purpose)


@pytest.fixture
def json_path(tmp_path):
    return tmp_path / "odd {name}.json"


@pytest.mark.parametrize("purpose", ["loading", "training", "evaluation"])
def test_good_file_passes(json_path, purpose):
    check(coco(), json_path, purpose)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read as JSON"),
        (json.dumps(coco())[:-30], "cannot be read as JSON"),
        ("\x00\x01", "cannot be read as JSON"),
        ("[1, 2]", "top level is a list"),
        ("{}", "no list 'images'"),
    ],
)
def test_damaged_file_is_named(json_path, text, said):
    with pytest.raises(DataError, match=said) as error:
        check(text, json_path)
    assert str(json_path) in str(error.value)


def test_missing_file_and_binary_file(tmp_path):
    with pytest.raises(DataError, match=r"none\.json"):
        read_coco_json(str(tmp_path / "none.json"))
    (tmp_path / "image.json").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        read_coco_json(str(tmp_path / "image.json"))


@pytest.mark.parametrize("key", ["images", "categories", "annotations"])
def test_missing_and_empty_lists_are_named(json_path, key):
    content = coco()
    content[key] = []
    with pytest.raises(DataError, match=f"nothing in the list '{key}'"):
        check(content, json_path)
    del content[key]
    with pytest.raises(DataError, match=f"has no list '{key}'"):
        check(content, json_path)


def test_evaluation_can_do_without_annotations(json_path):
    content = coco()
    del content["annotations"]
    check(content, json_path, "evaluation")


@pytest.mark.parametrize(
    ("kind", "key", "said"),
    [
        ("images", "height", r"image number 1 \(id 12\): lacks height"),
        ("images", "file_name", r"image number 1 \(id 12\): lacks file_name"),
        ("images", "id", "image number 1: lacks id"),
        ("categories", "name", r"category number 1 \(id 7\): lacks name"),
        ("annotations", "image_id", r"annotation number 1 \(id 102\): lacks image_id"),
        ("annotations", "category_id", r"annotation number 1 \(id 102\): lacks category_id"),
        ("annotations", "id", "annotation number 1: lacks id"),
    ],
)
def test_missing_keys_are_named(json_path, kind, key, said):
    content = coco()
    del content[kind][1][key]
    with pytest.raises(DataError, match=said):
        check(content, json_path, "loading")


@pytest.mark.parametrize("kind", ["images", "categories", "annotations"])
def test_repeated_ids_are_named(json_path, kind):
    content = coco()
    content[kind][1]["id"] = content[kind][0]["id"]
    with pytest.raises(DataError, match=rf"id {content[kind][0]['id']} occurs more than once"):
        check(content, json_path, "loading")


def test_published_minival_files_may_repeat_annotation_ids(tmp_path):
    content = coco()
    content["annotations"][1]["id"] = 101
    check(content, tmp_path / "instances_minival2014.json", "loading")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"category_id": 4}, "category_id 4 is not in the list 'categories'"),
        ({"category_id": "3"}, "category_id '3' is not in the list"),
        ({"ignore": 1}, "'ignore' is not supported"),
        ({"bbox": []}, "'bbox' is empty"),
        ({"bbox": None}, "'bbox' is empty"),
        ({"segmentation": {"size": [10, 12]}}, "lacks 'size' or 'counts'"),
    ],
)
def test_what_stops_the_loader_names_image_and_annotation(json_path, change, said):
    content = coco()
    content["annotations"][1].update(change)
    for purpose in ("loading", "training", "evaluation"):
        with pytest.raises(DataError, match=said) as error:
            check(content, json_path, purpose)
        assert "annotation id 102 of image id 11" in str(error.value)
        assert f"{json_path}: annotations that cannot be used: 1" in str(error.value)


def test_many_faults_are_counted_and_a_few_are_shown(json_path):
    content = coco()
    template = content["annotations"][0] | {"category_id": 99}
    content["annotations"] += [template | {"id": number} for number in range(200, 230)]
    with pytest.raises(DataError) as error:
        check(content, json_path, "loading")
    message = str(error.value)
    assert "cannot be used: 30" in message
    assert "and 25 more" in message
    assert message.count("category_id 99") == 5


def test_orphans_are_left_to_the_loader_unless_all_are(json_path):
    content = coco()
    content["annotations"][0]["image_id"] = 99
    check(content, json_path)
    for annotation in content["annotations"]:
        annotation["image_id"] = "11"
    check(content, json_path, "loading")
    with pytest.raises(DataError, match=r"none of its 3 annotations .* '11', .* id 11;"):
        check(content, json_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"segmentation": []}, "'segmentation' is empty"),
        ({"area": -1}, "'area' is -1, expected a number from 0"),
        ({"iscrowd": None}, "'iscrowd' is None, expected 0 or 1"),
        ({"segmentation": [[1, 2, 3, 4]]}, "4 coordinates"),
        ({"segmentation": [[float("nan"), 2, 3, 4, 5, 6]]}, "infinite or not a number"),
        ({"segmentation": [SQUARE, [1, 2, "3", 4, 5, 6]]}, "flat list of numbers"),
        ({"segmentation": {"size": [12, 10], "counts": [20, 50, 50]}}, r"\(12, 10\).*\(10, 12\)"),
        ({"segmentation": {"size": [10, 12], "counts": [20, 50]}}, "covers 70 pixels.* 120"),
    ],
)
def test_evaluation_faults(json_path, change, said):
    content = coco()
    content["annotations"][2].update(change)
    check(content, json_path, "loading")
    check(content, json_path, "training")
    with pytest.raises(DataError, match=said) as error:
        check(content, json_path, "evaluation")
    assert "annotation id 103 of image id 12" in str(error.value)


@pytest.mark.parametrize("key", ["area", "iscrowd", "segmentation"])
def test_evaluation_needs_these_keys(json_path, key):
    content = coco()
    del content["annotations"][0][key]
    check(content, json_path, "training")
    with pytest.raises(DataError, match=f"annotation id 101 of image id 11: lacks {key}"):
        check(content, json_path, "evaluation")


def test_evaluation_bears_short_polygons_after_the_first(json_path):
    content = coco()
    content["annotations"][0]["segmentation"] = [SQUARE, [1, 2, 3, 4]]
    check(content, json_path, "evaluation")
    rles = mask_util.frPyObjects(content["annotations"][0]["segmentation"], 10, 12)
    assert mask_util.decode(mask_util.merge(rles)).sum() == 64


@given(
    mask=st.integers(1, 9).flatmap(
        lambda height: st.lists(
            st.lists(st.booleans(), min_size=height, max_size=height), min_size=1, max_size=9
        )
    )
)
@settings(max_examples=100)
def test_rle_pixel_count_is_the_area_of_any_small_mask(mask):
    array = np.asfortranarray(np.array(mask, np.uint8).T)
    counts = mask_util.encode(array)["counts"]
    assert rle_pixel_count(counts) == array.size
    assert rle_pixel_count(counts.decode()) == array.size


def test_rle_pixel_count_with_long_and_shrinking_runs():
    runs = [100_000, 7, 5, 90_000, 1, 1, 70_000, 2, 33]
    code = mask_util.frPyObjects({"size": [1000, 300], "counts": runs}, 1000, 300)
    assert rle_pixel_count(code["counts"]) == sum(runs)


@pytest.mark.parametrize("counts", [b"\x01", b"34~", b"zzz"])
def test_rle_pixel_count_rejects_other_text(counts):
    with pytest.raises(ValueError, match="damaged"):
        rle_pixel_count(counts)


def test_rle_problem():
    good = mask_util.encode(np.asfortranarray(np.eye(10, 12, dtype=np.uint8)))
    assert rle_problem(good, 10, 12) is None
    assert rle_problem(good, None, None) is None
    assert "but the image is (12, 10)" in (rle_problem(good, 12, 10) or "")
    assert "cannot be read" in (rle_problem(good | {"counts": None}, 10, 12) or "")
    assert "cannot be read" in (rle_problem(good | {"counts": "é"}, 10, 12) or "")
    assert "covers 0 pixels" in (rle_problem(good | {"counts": ""}, 10, 12) or "")
    longer = mask_util.frPyObjects({"size": [10, 12], "counts": [3, 200]}, 10, 12)
    assert "covers 203 pixels" in (rle_problem(longer, 10, 12) or "")


@pytest.mark.parametrize(
    ("polygon", "said"),
    [
        ([1, 2, 3, 4], "4 coordinates"),
        ([1, 2, 3, 4, 5, 6, 7], "7 coordinates"),
        ([], "0 coordinates"),
        ([1, 2, 3, 4, 5, float("inf")], "infinite"),
        ([float("inf"), float("-inf"), 3, 4, 5, 6], "infinite"),
        (np.array([1.0, 2, 3, np.nan, 5, 6]), "not a number"),
        ([[1, 2], [3, 4], [5, 6]], "flat list"),
        ("123456", "flat list"),
        (None, "flat list"),
        ({"size": [1, 1]}, "flat list"),
    ],
)
def test_polygon_problem(polygon, said):
    assert said in (polygon_problem(polygon) or "")


def test_polygon_without_problem():
    assert polygon_problem(SQUARE) is None
    assert polygon_problem(np.array(SQUARE, np.float32)) is None


def test_find_annotation_id_counts_only_what_detectron2_keeps():
    content = copy.deepcopy(coco())
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7]]
    assert find_annotation_id(content, 11, 0) == 102
    assert find_annotation_id(content, 12, 0) == 103
    assert find_annotation_id(content, 12, 1) is None
    assert find_annotation_id({}, 12, 0) is None


def test_no_faults_raise_nothing():
    Faults().raise_if_any("faults", "mend them")
