import json
import logging

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import BoxMode
from PIL import Image

from instseg_d2.data import checks
from instseg_d2.data.checks import (
    check_image_files,
    instance_problem,
    load_checked_dataset,
    read_image,
)
from instseg_d2.errors import DataError
from instseg_d2.image_file import ImageFile
from tests.coco_sample import SQUARE, coco

KEY = "MODEL.SOME_MODEL.NUM_CLASSES"
NAME = "checks_test_data"


@pytest.fixture(autouse=True)
def _clean_catalogs():
    before = set(DatasetCatalog.list()), set(MetadataCatalog.list())
    yield
    for catalog, names in zip((DatasetCatalog, MetadataCatalog), before, strict=True):
        for name in set(catalog.list()) - names:
            catalog.pop(name)


@pytest.fixture
def register(tmp_path):
    """Write a COCO file (any text, or None for no file) and images; register and name them."""

    def register(content, name=NAME, images=("a.png", "b.png")):
        path = tmp_path / "annotations.json"
        if content is not None:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        (tmp_path / "images").mkdir()
        for image in images:
            Image.new("RGB", (12, 10)).save(tmp_path / "images" / image)
        register_coco_instances(name, {}, str(path), str(tmp_path / "images"))
        return name

    return register


def load(name, *, num_classes=2, max_instances=100, for_training=True, **options):
    return load_checked_dataset(
        name,
        num_classes=num_classes,
        classes_key=KEY,
        max_instances=max_instances,
        for_training=for_training,
        **options,
    )


@pytest.mark.parametrize("for_training", [True, False])
def test_good_data_is_returned_as_the_catalog_gives_it(register, caplog, for_training):
    name = register(coco())
    records = load(name, for_training=for_training)
    assert records == DatasetCatalog.get(name)
    assert [record["image_id"] for record in records] == [11, 12]
    assert not [entry for entry in caplog.records if entry.name == checks.__name__]


# ------------------------------------------------------------------------------------- names


def test_unknown_name_lists_similar_ones_and_says_how_to_register(register):
    register(coco())
    with pytest.raises(DataError) as error:
        load("checks_tets_data")
    message = str(error.value)
    assert "'checks_tets_data' is not registered" in message
    assert f"Did you mean '{NAME}'" in message
    assert "register_coco_instances('checks_tets_data', {}," in message
    assert "DETECTRON2_DATASETS" not in message


@pytest.mark.parametrize("value", [None, "/data/sets"])
def test_unknown_builtin_name_explains_the_environment_variable(monkeypatch, value):
    if value is None:
        monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    else:
        monkeypatch.setenv("DETECTRON2_DATASETS", value)
    with pytest.raises(DataError) as error:
        load("coco_2017_trian")
    message = str(error.value)
    assert "'coco_2017_train'" in message
    assert "DETECTRON2_DATASETS" in message
    assert ("now '/data/sets'" in message) if value else ("now not set" in message)
    assert "coco/annotations/instances_{train,val}2017.json" in message


# -------------------------------------------------------------------------- annotation file


def test_missing_annotation_file(register, tmp_path):
    with pytest.raises(DataError) as error:
        load(register(None))
    assert f"{tmp_path / 'annotations.json'} does not exist" in str(error.value)
    assert NAME in str(error.value)


def test_missing_annotation_file_of_a_builtin_name(register):
    with pytest.raises(DataError, match="does not exist") as error:
        load(register(None, name="coco_2031_train"))
    assert "DETECTRON2_DATASETS" in str(error.value)
    assert "coco/{train,val}2031/*.jpg" in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"images": [', "cannot be read as JSON"),
        ("[]", "top level is a list"),
        ({**coco(), "categories": []}, "nothing in the list 'categories'"),
        ({"images": coco()["images"], "annotations": []}, "no list 'categories'"),
        ({**coco(), "images": []}, "nothing in the list 'images'"),
        ({**coco(), "annotations": []}, "nothing in the list 'annotations'"),
        ({k: v for k, v in coco().items() if k != "annotations"}, "no list 'annotations'"),
    ],
)
def test_damaged_and_incomplete_files(register, tmp_path, content, said):
    with pytest.raises(DataError, match=said) as error:
        load(register(content))
    assert str(tmp_path / "annotations.json") in str(error.value)


def test_evaluation_without_annotations_is_allowed(register):
    content = coco()
    del content["annotations"]
    assert len(load(register(content), for_training=False)) == 2


def test_only_crowds_are_nothing_to_learn_from(register):
    content = coco()
    content["annotations"] = content["annotations"][2:]
    name = register(content)
    with pytest.raises(DataError, match="no annotated instances"):
        load(name)
    load(name, for_training=False)


def test_annotations_of_no_image(register):
    content = coco()
    for annotation in content["annotations"]:
        annotation["image_id"] = str(annotation["image_id"])
    with pytest.raises(DataError, match="none of its 3 annotations belongs to one of its images"):
        load(register(content))


def test_faults_of_the_loader_name_the_annotation(register):
    content = coco()
    content["annotations"][1]["category_id"] = 5
    with pytest.raises(DataError, match="category_id 5 is not in the list") as error:
        load(register(content))
    assert "annotation id 102 of image id 11" in str(error.value)
    assert NAME in str(error.value)


def test_lacking_area_is_not_blamed_for_a_failed_load(register):
    content = coco()
    for annotation in content["annotations"]:
        del annotation["area"]
    content["annotations"][1]["category_id"] = 5
    with pytest.raises(DataError, match="category_id 5") as error:
        load(register(content), for_training=False)
    assert "lacks" not in str(error.value)


def test_evaluation_checks_the_file_that_it_reads_again(register):
    content = coco()
    del content["annotations"][0]["area"]
    name = register(content)
    load(name)
    with pytest.raises(DataError, match="annotation id 101 of image id 11: lacks area"):
        load(name, for_training=False)
    load(name, for_training=False, coco_evaluation=False)


def test_categories_that_contradict_a_builtin_data_set(register):
    name = register(coco())
    MetadataCatalog.get(name).thing_classes = ["other"]
    with pytest.raises(DataError, match="a name of its own"):
        load(name)


def test_failing_registered_function_is_named():
    def fail():
        raise KeyError("colour")

    DatasetCatalog.register(NAME, fail)
    with pytest.raises(DataError, match=f"'{NAME}' could not be loaded: KeyError: 'colour'"):
        load(NAME)


def test_data_errors_of_a_registered_function_pass_unchanged():
    def fail():
        raise DataError("mend this")

    DatasetCatalog.register(NAME, fail)
    with pytest.raises(DataError, match=r"^mend this$"):
        load(NAME)


@pytest.mark.parametrize(("value", "said"), [({}, "returned a dict"), ([], "has no images")])
def test_registered_function_that_returns_no_records(value, said):
    DatasetCatalog.register(NAME, lambda: value)
    with pytest.raises(DataError, match=said):
        load(NAME)


# ------------------------------------------------------------------------------------ images


def test_missing_images_are_counted_and_shown(register, tmp_path):
    with pytest.raises(DataError) as error:
        load(register(coco(), images=("a.png",)))
    message = str(error.value)
    assert "1 of the 2 images are missing" in message
    assert str(tmp_path / "images" / "b.png") in message
    assert str(tmp_path / "images" / "a.png") not in message


def test_large_sets_are_sampled_evenly_with_both_ends(monkeypatch):
    monkeypatch.setattr(checks, "MAX_FILES_CHECKED", 5)
    asked = []
    monkeypatch.setattr(checks.os.path, "isfile", lambda path: asked.append(path) or False)
    with pytest.raises(DataError, match=r"5 of the 5 images looked at \(of 41\) are missing"):
        check_image_files("x", [{"file_name": f"/none/{i}"} for i in range(41)])
    assert asked == [f"/none/{i}" for i in (0, 10, 20, 30, 40)]


def test_remote_files_and_records_without_file_are_passed_over():
    check_image_files("x", [{"file_name": "https://host/a.png"}, {"image": 0}])


# ----------------------------------------------------------------------------------- classes


@pytest.mark.parametrize("num_classes", [1, 3, 80])
@pytest.mark.parametrize("for_training", [True, False])
def test_other_class_count_names_the_key_and_the_value(register, num_classes, for_training):
    with pytest.raises(DataError) as error:
        load(register(coco()), num_classes=num_classes, for_training=for_training)
    assert f"{KEY} 2" in str(error.value)
    assert "(cat, dog)" in str(error.value)
    assert str(num_classes) in str(error.value)


def test_class_agnostic_models_take_any_number_of_classes(register):
    assert len(load(register(coco()), num_classes=None)) == 2


# ------------------------------------------------------------------------------- annotations


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


def record(**change):
    annotation = {
        "bbox": [1, 1, 8, 8],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "segmentation": [list(SQUARE)],
    }
    annotation.update(change)
    return {"image_id": "first", "height": 10, "width": 12, "annotations": [annotation]}


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


def test_images_with_too_many_instances_are_counted_in_one_warning(register, caplog):
    content = coco()
    template = content["annotations"][0]
    content["annotations"] += [{**template, "id": i, "image_id": 12} for i in range(200, 205)]
    name = register(content)
    with caplog.at_level(logging.WARNING, checks.__name__):
        load(name, max_instances=5)
        load(name, max_instances=None)
        load(name, max_instances=1)
    (entry,) = [entry for entry in caplog.records if entry.name == checks.__name__]
    assert "2 images have more instances than the 1" in entry.message
    assert "image id 12 with 5" in entry.message


@pytest.mark.needs_shared
def test_real_coco_annotations_pass(shared):
    root = shared / "data" / "coco_tiny" / "coco"
    if not root.is_dir():
        pytest.skip("the COCO sample is absent")
    for split, for_training in (("train2017", True), ("val2017", False)):
        file = root / "annotations" / f"instances_{split}.json"
        register_coco_instances(f"tiny_{split}", {}, str(file), str(root / split))
        records = load(f"tiny_{split}", num_classes=80, for_training=for_training)
        assert len(records) == {"train2017": 178, "val2017": 50}[split]
        for entry in records:
            assert read_image(entry, "BGR").shape == (entry["height"], entry["width"], 3)


# -------------------------------------------------------------------------------- read_image


def test_read_image_gives_the_asked_channel_order_and_fills_in_the_size(tmp_path):
    Image.new("RGB", (5, 4), (10, 20, 30)).save(tmp_path / "a.png")
    entry = {"file_name": str(tmp_path / "a.png")}
    image = read_image(entry, "BGR")
    assert image.dtype == np.uint8
    assert image.shape == (4, 5, 3)
    assert image[0, 0].tolist() == [30, 20, 10]
    assert (entry["height"], entry["width"]) == (4, 5)
    assert read_image(entry, "RGB")[0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "does not exist"), (b"", "cannot be read"), (b"not an image", "cannot be read")],
)
def test_unreadable_images_are_named(tmp_path, content, said):
    path = tmp_path / "a.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=said) as error:
        read_image({"file_name": str(path), "image_id": 77}, "RGB")
    assert str(path) in str(error.value)
    assert "image id 77" in str(error.value)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_images_are_named(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.random.randint(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(DataError, match="truncated") as error:
        read_image({"file_name": str(path)}, "RGB")
    assert "image id unknown" in str(error.value)


def test_images_without_pixels_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    path.touch()
    nothing = ImageFile(np.zeros((0, 5, 3), np.uint8), (0, 5))
    monkeypatch.setattr("instseg_d2.data.checks.read_image_file", lambda *_: nothing)
    with pytest.raises(DataError, match=r"has no pixels: its shape is \(0, 5, 3\)"):
        read_image({"file_name": str(path)}, "RGB")


def test_other_size_than_annotated(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (5, 4)).save(path)
    with pytest.raises(DataError, match=r"is 5 x 4 pixels.* says 6 x 4") as error:
        read_image({"file_name": str(path), "image_id": 3, "height": 4, "width": 6}, "RGB")
    assert "EXIF" not in str(error.value)


def test_swapped_sides_hint_at_the_exif_orientation(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (5, 4)).save(path, exif=exif)
    assert read_image({"file_name": str(path), "height": 5, "width": 4}, "RGB").shape == (5, 4, 3)
    with pytest.raises(DataError, match="EXIF orientation"):
        read_image({"file_name": str(path), "height": 4, "width": 5}, "RGB")
