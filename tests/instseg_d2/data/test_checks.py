"""A data set that is loaded: its images, its classes, and that good ones pass."""

import logging

import pytest
from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances

from instseg_d2.data import checks
from instseg_d2.data.checks import check_image_files
from instseg_d2.data.image_reading import read_image
from instseg_d2.errors import DataError
from tests.checked_data import KEY, load
from tests.coco_sample import coco

pytestmark = pytest.mark.usefixtures("clean_catalogs")


@pytest.mark.parametrize("for_training", [True, False])
def test_good_data_is_returned_as_the_catalog_gives_it(register, caplog, for_training):
    name = register(coco())
    records = load(name, for_training=for_training)
    assert records == DatasetCatalog.get(name)
    assert [record["image_id"] for record in records] == [11, 12]
    assert not [entry for entry in caplog.records if entry.name.startswith("instseg_d2")]


# ------------------------------------------------------------------------------------------- images


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


# ------------------------------------------------------------------------------------------ classes


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


# ---------------------------------------------------------------------------------------- instances


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
