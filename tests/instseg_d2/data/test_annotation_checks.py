"""Annotations that training or evaluation would fail on are named."""

import logging

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from instseg_d2.data.annotation_checks import check_annotations, instance_problem
from instseg_d2.errors import DataError
from tests.checked_data import NAME, load, record
from tests.coco_sample import SQUARE, coco

pytestmark = pytest.mark.usefixtures("clean_catalogs")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"segmentation": []}, "has no 'segmentation'"),
        ({"segmentation": None}, "has no 'segmentation'"),
        ({"segmentation": {"size": [12, 10], "counts": [20, 50, 50]}}, r"\(12, 10\).*\(10, 12\)"),
        ({"segmentation": {"size": [10, 12], "counts": [20, 500]}}, "covers 520 pixels"),
        ({"segmentation": [[1, 1, 5, 5, float("nan"), 3]]}, "not a number"),
        ({"bbox": [1, 1, 3]}, "needs 4 numbers"),
        ({"bbox": "none"}, "needs 4 numbers"),
    ],
)
def test_annotation_faults_name_image_annotation_and_file(register, tmp_path, change, said):
    content = coco()
    # Detectron2 drops this one, so that positions in its records and in the file differ.
    content["annotations"][0]["segmentation"] = [[1, 2, 3, 4]]
    content["annotations"][1].update(change)
    with pytest.raises(DataError, match=said) as error:
        load(register(content))
    message = str(error.value)
    assert f"annotation id 102 of image id 11 ({tmp_path / 'images' / 'a.png'})" in message
    assert "cannot be used: 1" in message
    assert str(tmp_path / "annotations.json") in message


@pytest.mark.parametrize(
    "change",
    [
        {"segmentation": [[1, 2, 3, 4]]},
        {"segmentation": [SQUARE, [1, 2, 3]]},
        {"bbox": [1, 1, 0, 0]},
        {"iscrowd": 1, "segmentation": []},
        {"image_id": 99},
    ],
)
def test_what_detectron2_filters_is_no_error(register, change):
    content = coco()
    content["annotations"][1].update(change)
    assert len(load(register(content))) == 2


def test_a_crowd_flag_of_text_hides_no_object():
    flagged = [record(), record(iscrowd="0")]
    with pytest.raises(DataError, match="'iscrowd' is '0', expected 0 or 1"):
        check_annotations("x", flagged, num_classes=None, for_training=True)


FRACTIONS = [[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]]


@pytest.mark.parametrize(
    "polygons",
    [FRACTIONS, [[50, 1, 60, 1, 60, 9]], [[1, -9, 9, -9, 9, -1]], [[5, 5, 5, 5, 5, 5]]],
    ids=["fractions", "right of the image", "above the image", "a point"],
)
def test_outlines_that_cover_nothing_of_their_image(caplog, polygons):
    good, bad = record(), record(segmentation=polygons)
    check_annotations("x", [good], num_classes=None, for_training=True)
    assert not caplog.records
    check_annotations("x", [good, bad], num_classes=None, for_training=True)
    assert "'x': 1 of the 2 objects cover no more than a pixel of their image" in caplog.text
    check_annotations("x", [bad], num_classes=None, for_training=True, masks="none")
    with pytest.raises(DataError, match=r"none of its 2 objects .* in pixels of the image, not in"):
        check_annotations("x", [bad, bad], num_classes=None, for_training=True)


@pytest.mark.parametrize(
    ("polygons", "sides"),
    [([[0, 0, 1, 0, 1, 1, 0, 1]], (1, 1)), ([[3, 0, 4, 0, 4, 2]], (10, 12)), (FRACTIONS, (1, 1))],
)
def test_small_outlines_that_cover_something(caplog, polygons, sides):
    small = {**record(segmentation=polygons), "height": sides[0], "width": sides[1]}
    check_annotations("x", [small], num_classes=None, for_training=True)
    assert not caplog.records


@pytest.mark.parametrize(
    ("category", "said"),
    [(2, "below 2"), (-1, "at least 0"), ("1", "not an integer"), (None, "not an integer")],
)
def test_category_outside_the_list_in_other_formats(category, said):
    DatasetCatalog.register(NAME, lambda: [record(category_id=category, id=55)])
    with pytest.raises(DataError, match=said) as error:
        load(NAME)
    assert "annotation id 55 of image id first" in str(error.value)
    assert repr(category) in str(error.value)


def test_class_agnostic_models_also_want_categories_that_have_a_name():
    DatasetCatalog.register(NAME, lambda: [record(category_id=7)])
    load(NAME, num_classes=None)
    MetadataCatalog.get(NAME).thing_classes = ["a", "b"]
    with pytest.raises(DataError, match=r"category_id 7 .*below 2"):
        load(NAME, num_classes=None)


@pytest.mark.parametrize("segmentation", [None, []])
def test_objects_without_a_mask_may_be_left_out(caplog, segmentation):
    boxes = [record(segmentation=segmentation), record(segmentation=segmentation, iscrowd=1)]
    DatasetCatalog.register(NAME, lambda: [*boxes, record()])
    with pytest.raises(DataError, match="has no 'segmentation'"):
        load(NAME)
    with caplog.at_level(logging.WARNING):
        assert len(load(NAME, masks="some")) == 3
    assert [r.getMessage() for r in caplog.records if "mask" in r.getMessage()] == [
        f"data set '{NAME}': 1 of the 2 objects have no mask ('segmentation') and are left out."
    ]
    DatasetCatalog.pop(NAME)
    DatasetCatalog.register(NAME, lambda: boxes)
    for for_training in (True, False):
        with pytest.raises(DataError, match=f"'{NAME}': none of its 1 objects .*only boxes"):
            load(NAME, masks="some", for_training=for_training)


def test_damaged_masks_are_never_left_out():
    DatasetCatalog.register(NAME, lambda: [record(), record(segmentation=[[1, 2, 3, 4]])])
    with pytest.raises(DataError, match="4 coordinates"):
        load(NAME, masks="some")


def test_a_model_of_boxes_does_not_look_at_masks(caplog):
    segmentations = [None, [], [[1, 2, 3, 4]]]
    DatasetCatalog.register(NAME, lambda: [record(segmentation=s) for s in segmentations])
    with caplog.at_level(logging.WARNING):
        assert len(load(NAME, masks="none")) == 3
    assert not caplog.records
    DatasetCatalog.pop(NAME)
    DatasetCatalog.register(NAME, lambda: [record(bbox=[1, 2, 3])])
    with pytest.raises(DataError, match="needs 4 numbers"):
        load(NAME, masks="none")


def test_annotations_without_ids_are_named_by_position():
    DatasetCatalog.register(NAME, lambda: [record(category_id=9)])
    with pytest.raises(DataError, match="annotation number 0 of image id first"):
        load(NAME)


@pytest.mark.parametrize(
    ("segmentation", "said"),
    [
        ([[1, 2, 3, 4]], "4 coordinates"),
        ([SQUARE, [1, 2, 3, 4, 5, 6, 7]], "7 coordinates"),
        ([[[1, 2], [3, 4], [5, 6]]], "flat list"),
        ({"size": [10, 12], "counts": [60, 60]}, "not compressed"),
        (np.zeros((10, 12), bool), "is a ndarray"),
    ],
)
def test_segmentation_faults_in_other_formats(segmentation, said):
    annotation = record(segmentation=segmentation)["annotations"][0]
    assert said in (instance_problem(annotation, 10, 12, 2) or "")


def test_good_annotations_in_other_formats():
    good = mask_util.encode(np.asfortranarray(np.eye(10, 12, dtype=np.uint8)))
    for segmentation in (good, [np.array(SQUARE)]):
        for size in ((10, 12), (None, None)):
            annotation = record(segmentation=segmentation, category_id=np.int64(1))
            assert instance_problem(annotation["annotations"][0], *size, 2) is None
