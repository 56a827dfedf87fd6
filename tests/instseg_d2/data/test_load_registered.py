"""Names that nobody registered, and annotation files that cannot be loaded."""

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from instseg_d2.errors import DataError
from tests.checked_data import NAME, load
from tests.coco_sample import coco

pytestmark = pytest.mark.usefixtures("clean_catalogs")


# -------------------------------------------------------------------------------------------- names


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


# ---------------------------------------------------------------------------------- annotation file


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


def test_missing_package_is_named():
    """As ``lvis``, which Detectron2 reads LVIS with."""

    def load_it():
        raise ModuleNotFoundError("No module named 'lvis'", name="lvis")

    DatasetCatalog.register(NAME, load_it)
    message = f"'{NAME}' is read with the package lvis, which is not installed: pip install lvis$"
    with pytest.raises(DataError, match=message):
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


def test_sides_with_a_decimal_point_are_whole_numbers(register):
    content = coco()
    content["images"][0].update(height=10.0, width=12.0)
    first, _ = load(register(content))
    assert repr((first["height"], first["width"])) == "(10, 12)"
