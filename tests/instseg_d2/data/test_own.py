"""Own data: registered from files and folders, its classes agreed, mistakes named."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BitMasks, Boxes, BoxMode, Instances, PolygonMasks

from instseg_d2.coco_evaluator import FastCOCOEvaluator
from instseg_d2.config import load_config
from instseg_d2.data.checks import check_class_count
from instseg_d2.data.config_datasets import drawing_metadata, register_config_datasets
from instseg_d2.data.own import OwnMetadata, register_own_data
from instseg_d2.data.own_files import check_own_files
from instseg_d2.engine import load_dataset
from instseg_d2.errors import ConfigError, DataError
from tests.own_data import TRAIN_IDS, OwnFiles, write_own_data

pytestmark = pytest.mark.usefixtures("no_own_data_left")

SPARSEINST = "sparseinst/sparse_inst_r50_giam"
CLASSES_KEY = "MODEL.SPARSE_INST.DECODER.NUM_CLASSES"


@pytest.fixture
def own(tmp_path: Path) -> OwnFiles:
    return write_own_data(tmp_path)


def config(own: OwnFiles, *overrides: str, name: str = SPARSEINST) -> CfgNode:
    return load_config(name, [*own.overrides(), *overrides])


def edit(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


# ------------------------------------------------------------------------------------ what is set


def test_the_config_is_set_up_for_the_data(own: OwnFiles) -> None:
    cfg = config(own)
    register_own_data(cfg)
    assert cfg.DATASETS.TRAIN == ("own_train",)
    assert cfg.DATASETS.TEST == ("own_val",)
    assert cfg.DATASETS.OWN.CLASSES == ("bolt", "nut", "washer")
    assert cfg.MODEL.SPARSE_INST.DECODER.NUM_CLASSES == 3
    records = load_dataset(cfg, "own_train", for_training=True)
    content = json.loads(own.train_json.read_text())
    names = {a["id"]: TRAIN_IDS[a["category_id"]] for a in content["annotations"]}
    loaded = [cfg.DATASETS.OWN.CLASSES[a["category_id"]] for r in records for a in r["annotations"]]
    assert loaded == list(names.values())
    assert records[1]["file_name"] == str(own.train_images / "b" / "1.png")


def test_what_the_user_has_set_stays(own: OwnFiles) -> None:
    cfg = config(own, CLASSES_KEY, "5", "DATASETS.TEST", "('shapes_val',)")
    register_own_data(cfg, keep=[CLASSES_KEY, "DATASETS.TEST"])
    assert cfg.MODEL.SPARSE_INST.DECODER.NUM_CLASSES == 5
    assert cfg.DATASETS.TEST == ("shapes_val",)
    with pytest.raises(DataError, match=f"set {CLASSES_KEY} 3"):
        load_dataset(cfg, "own_train", for_training=True)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("sharpmask/sharpmask_r50", None),
        ("sharpmask/fast_rcnn_r50_fpn_sharpmask", "NUM_CLASSES"),
    ],
)
def test_other_models(own: OwnFiles, name: str, key: str | None) -> None:
    cfg = config(own, name=name)
    register_own_data(cfg)
    assert cfg.DATASETS.TRAIN == ("own_train",)
    assert (3 if key else 80) == cfg.MODEL.ROI_HEADS.NUM_CLASSES
    assert cfg.MODEL.SPARSE_INST.DECODER.NUM_CLASSES == 80
    assert len(load_dataset(cfg, "own_train", for_training=True)) == 8


def test_without_own_data_nothing_happens() -> None:
    cfg = load_config(SPARSEINST)
    before = cfg.dump()
    assert register_own_data(cfg) is None
    assert cfg.dump() == before
    register_config_datasets(cfg)
    assert "own_train" not in DatasetCatalog


def test_without_validation_data_nothing_is_evaluated(
    own: OwnFiles, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = config(own, "DATASETS.OWN.VAL_JSON", "''", "DATASETS.OWN.VAL_IMAGES", "''")
    summary = register_own_data(cfg)
    assert cfg.DATASETS.TEST == ()
    assert summary is not None
    summary.log(cfg)
    assert "No validation data" in caplog.text
    metadata = drawing_metadata(cfg)
    assert metadata is not None
    assert metadata.thing_classes == ["bolt", "nut", "washer"]


def test_an_evaluation_needs_the_validation_data_alone(own: OwnFiles) -> None:
    cfg = config(own, "DATASETS.OWN.TRAIN_JSON", "''", "DATASETS.OWN.TRAIN_IMAGES", "''")
    register_own_data(cfg, for_training=False)
    assert cfg.DATASETS.TEST == ("own_val",)
    assert cfg.DATASETS.OWN.CLASSES == ("nut", "bolt", "washer")  # by the ids of that file


def test_an_evaluation_numbers_the_classes_as_the_training_does(own: OwnFiles) -> None:
    cfg = config(own)
    register_own_data(cfg, for_training=False)
    assert cfg.DATASETS.OWN.CLASSES == ("bolt", "nut", "washer")


def test_a_saved_config_works_where_the_training_data_is_not(own: OwnFiles, tmp_path: Path) -> None:
    cfg = config(own)
    register_own_data(cfg)
    saved = tmp_path / "config.yaml"
    saved.write_text(cfg.dump())
    shutil.rmtree(own.train_images)
    own.train_json.unlink()

    cfg = load_config(saved)
    register_own_data(cfg, for_training=False)
    assert load_dataset(cfg, "own_val", for_training=False)
    shutil.rmtree(own.val_images)
    own.val_json.unlink()

    cfg = load_config(saved)
    cfg.freeze()
    register_config_datasets(cfg)  # as the predictor and the tools do
    metadata = drawing_metadata(cfg)
    assert metadata is not None
    assert metadata.thing_classes == ["bolt", "nut", "washer"]
    with pytest.raises(DataError, match=r"val\.json does not exist"):
        load_dataset(cfg, "own_val", for_training=False)


def test_tools_that_only_register_can_load_it(own: OwnFiles) -> None:
    register_config_datasets(config(own))
    assert len(DatasetCatalog.get("own_train")) == 8
    assert MetadataCatalog.get("own_train").thing_classes == ["bolt", "nut", "washer"]


def test_relative_paths_are_saved_as_absolute_ones(
    own: OwnFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = OwnFiles(*(path.relative_to(tmp_path) for path in vars(own).values()))
    cfg = config(relative)
    register_own_data(cfg)
    monkeypatch.chdir("/")
    register_config_datasets(cfg)
    assert len(load_dataset(cfg, "own_train", for_training=True)) == 8
    assert str(own.val_json) == cfg.DATASETS.OWN.VAL_JSON


# -------------------------------------------------------------------------------- classes by name


def truth_as_predictions(record: dict[str, Any]) -> Instances:
    size = record["height"], record["width"]
    objects = [a for a in record["annotations"] if not a["iscrowd"]]
    found = Instances(size)
    boxes = [BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS) for a in objects]
    found.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    found.pred_classes = torch.tensor([a["category_id"] for a in objects], dtype=torch.int64)
    found.scores = torch.full((len(objects),), 0.9)
    masks = BitMasks.from_polygon_masks(
        PolygonMasks([a["segmentation"] for a in objects]), size[0], size[1]
    )
    found.pred_masks = masks.tensor
    return found


def test_validation_data_with_other_ids_is_evaluated_by_names(own: OwnFiles) -> None:
    """The order of its ids is not that of the classes, and one class has no object."""
    cfg = config(own)
    register_own_data(cfg)
    records = load_dataset(cfg, "own_val", for_training=False)
    evaluator = FastCOCOEvaluator("own_val")
    evaluator.reset()
    for record in records:
        evaluator.process([record], [{"instances": truth_as_predictions(record)}])
    boxes = evaluator.evaluate()["bbox"]
    assert boxes["AP"] == pytest.approx(100)
    assert boxes["AP-bolt"] == pytest.approx(100)
    assert boxes["AP-washer"] == pytest.approx(100)
    assert boxes["AP-nut"] != boxes["AP-nut"]  # NaN: there is none


def test_categories_that_differ_are_named(own: OwnFiles) -> None:
    edit(own.val_json, lambda content: content["categories"][0].update(name="Washer"))
    with pytest.raises(DataError) as error:
        register_own_data(config(own))
    message = str(error.value)
    assert f"only in {own.val_json}: 'Washer'" in message
    assert f"only in {own.train_json}: 'washer'" in message


def test_classes_of_another_run_are_named(own: OwnFiles) -> None:
    cfg = config(own, "DATASETS.OWN.CLASSES", "('bolt', 'nut', 'screw')")
    with pytest.raises(ConfigError, match=r"'screw'.*DATASETS\.OWN\.CLASSES \"\(\)\""):
        register_own_data(cfg)
    register_config_datasets(cfg)
    with pytest.raises(DataError, match=r"only in DATASETS\.OWN\.CLASSES: 'screw'"):
        load_dataset(cfg, "own_train", for_training=True)


def test_a_class_given_twice_is_refused(own: OwnFiles) -> None:
    with pytest.raises(ConfigError, match="a name twice"):
        register_own_data(config(own, "DATASETS.OWN.CLASSES", "('bolt', 'nut', 'nut', 'washer')"))


def test_classes_can_be_given_in_another_order(own: OwnFiles) -> None:
    cfg = config(own, "DATASETS.OWN.CLASSES", "('washer', 'bolt', 'nut')")
    register_own_data(cfg)
    load_dataset(cfg, "own_train", for_training=True)
    ids = MetadataCatalog.get("own_train").thing_dataset_id_to_contiguous_id
    assert ids == {3: 1, 17: 2, 90: 0}
    check_class_count("own_train", 3, CLASSES_KEY)


# --------------------------------------------------------------------------------------- mistakes

FAULTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no categories": (lambda c: c["categories"].clear(), "has nothing in the list 'categories'"),
    "no images": (lambda c: c["images"].clear(), "has nothing in the list 'images'"),
    "no annotations": (lambda c: c.pop("annotations"), "has no list 'annotations'"),
    "unknown category": (
        lambda c: c["annotations"][2].update(category_id=4),
        "annotation id 1002 of image id 10.: category_id 4 is not in the list 'categories'",
    ),
    "image id twice": (lambda c: c["images"].append(c["images"][0]), "image id 100 occurs more"),
    "annotation id twice": (
        lambda c: c["annotations"].append(c["annotations"][0]),
        "annotation id 1000 occurs more than once",
    ),
    "category name twice": (
        lambda c: c["categories"].append({"id": 91, "name": "nut"}),
        "category ids 17 and 91 have the same name, 'nut'",
    ),
    "category ids of text": (
        lambda c: (
            [a.update(category_id=str(a["category_id"])) for a in c["annotations"]]
            and [category.update(id=str(category["id"])) for category in c["categories"]]
        ),
        "category 'bolt': its id is '3', not a whole number",
    ),
    "one category id of text": (
        lambda c: (
            [a.update(category_id="3") for a in c["annotations"]]
            and c["categories"][0].update(id="3")
        ),
        "some ids of kind 'category' are text, others numbers, such as '3' and 17",
    ),
    "file name of no text": (lambda c: c["images"][0].update(file_name=7), "'file_name' is 7"),
    "side of no number": (lambda c: c["images"][0].update(width="64"), "'width' is '64'"),
    "orphans": (
        lambda c: [a.update(image_id=str(a["image_id"])) for a in c["annotations"]],
        "none of its 1. annotations belongs to one of its images",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_in_the_file_are_named(own: OwnFiles, fault: str) -> None:
    change, message = FAULTS[fault]
    edit(own.train_json, change)
    with pytest.raises(DataError, match=message) as error:
        register_own_data(config(own))
    assert str(own.train_json) in str(error.value)


@pytest.mark.parametrize("text", ["", "[1, 2]", '{"images": ['])
def test_files_that_are_no_annotations(own: OwnFiles, text: str) -> None:
    own.train_json.write_text(text)
    with pytest.raises(DataError, match=str(own.train_json)):
        register_own_data(config(own))


def test_masks_that_are_missing_are_named(own: OwnFiles) -> None:
    edit(own.train_json, lambda c: [a.pop("segmentation") for a in c["annotations"]])
    cfg = config(own)
    register_own_data(cfg)
    with pytest.raises(
        DataError, match=r"annotation id 1000 of image id 10.*has no 'segmentation'"
    ):
        load_dataset(cfg, "own_train", for_training=True)


def test_single_missing_images_are_named(own: OwnFiles) -> None:
    (own.train_images / "b" / "1.png").unlink()
    cfg = config(own)
    register_own_data(cfg)
    with pytest.raises(DataError, match=r"1 of the 8 images are missing[^$]*b/1\.png"):
        load_dataset(cfg, "own_train", for_training=True)


def with_folder(own: OwnFiles, folder: Path) -> OwnFiles:
    return OwnFiles(own.train_json, folder, own.val_json, own.val_images)


def test_the_right_folder_is_suggested(own: OwnFiles) -> None:
    for wrong in (own.train_images.parent, own.train_images / "a"):
        with pytest.raises(DataError, match=f"It is in {own.train_images}: give that"):
            register_own_data(config(with_folder(own, wrong)))


def test_file_names_with_a_folder_too_many(own: OwnFiles) -> None:
    def change(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["file_name"] = f"elsewhere/{image['file_name']}"

    edit(own.train_json, change)
    with pytest.raises(DataError, match=r"--train-images .*relative to that folder"):
        register_own_data(config(own))
    with pytest.raises(DataError, match=r"0\.png is there: its file_name must go without"):
        register_own_data(config(with_folder(own, own.train_images / "a")))


def test_file_names_with_backslashes(own: OwnFiles) -> None:
    def change(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["file_name"] = image["file_name"].replace("/", "\\")

    edit(own.train_json, change)
    with pytest.raises(DataError, match="set apart by /"):
        register_own_data(config(own))


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        (["TRAIN_IMAGES"], r"--train-json \(DATASETS.OWN.TRAIN_JSON\) is given without --train-im"),
        (["VAL_JSON"], "--val-images .* is given without --val-json"),
        (["TRAIN_JSON", "TRAIN_IMAGES"], "no data to train on: add --train-json .*--eval-only"),
    ],
)
def test_incomplete_options_are_named(own: OwnFiles, lacking: list[str], message: str) -> None:
    overrides = [word for key in lacking for word in (f"DATASETS.OWN.{key}", "''")]
    with pytest.raises(ConfigError, match=message):
        check_own_files(config(own, *overrides), for_training=True)


def test_an_evaluation_without_validation_data_is_refused(own: OwnFiles) -> None:
    cfg = config(own, "DATASETS.OWN.VAL_JSON", "''", "DATASETS.OWN.VAL_IMAGES", "''")
    with pytest.raises(ConfigError, match="no data to evaluate on: add --val-json"):
        check_own_files(cfg, for_training=False)


def test_files_and_folders_that_are_absent(own: OwnFiles, tmp_path: Path) -> None:
    cfg = config(own, "DATASETS.OWN.TRAIN_JSON", str(tmp_path / "trian.json"))
    with pytest.raises(DataError, match=r"--train-json .*trian\.json is absent"):
        check_own_files(cfg, for_training=True)
    cfg = config(own, "DATASETS.OWN.TRAIN_JSON", str(tmp_path))
    with pytest.raises(DataError, match="is a folder; name the file in it"):
        check_own_files(cfg, for_training=True)
    cfg = config(own, "DATASETS.OWN.VAL_IMAGES", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"--val-images .*none does not exist"):
        check_own_files(cfg, for_training=True)


def test_a_data_set_of_the_same_name_is_not_replaced(own: OwnFiles) -> None:
    DatasetCatalog.register("own_val", list)
    with pytest.raises(ConfigError, match="'own_val' is registered already"):
        register_own_data(config(own))
    assert not isinstance(MetadataCatalog.get("own_val"), OwnMetadata)


@pytest.mark.parametrize("names", [["1", "yes", "a, 'b'"], ["Schäfte", "null", "(3,)"], [1, 2, 3]])
def test_any_names_survive_the_saved_config(
    own: OwnFiles, tmp_path: Path, names: list[Any]
) -> None:
    def rename(content: dict[str, Any]) -> None:
        for category, name in zip(content["categories"], names, strict=True):
            category["name"] = name

    edit(own.train_json, rename)
    edit(own.val_json, rename)
    cfg = config(own)
    register_own_data(cfg)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    cfg = load_config(tmp_path / "config.yaml")
    assert tuple(map(str, names)) == cfg.DATASETS.OWN.CLASSES
    register_own_data(cfg)
    load_dataset(cfg, "own_val", for_training=False)


# ------------------------------------------------------------------------------------ what is said


def logged(cfg: CfgNode, caplog: pytest.LogCaptureFixture) -> str:
    caplog.set_level(logging.INFO)
    summary = register_own_data(cfg)
    assert summary is not None
    caplog.clear()
    summary.log(cfg)
    return caplog.text


def test_the_summary_suggests_a_limit_of_masks(
    own: OwnFiles, caplog: pytest.LogCaptureFixture
) -> None:
    key = "MODEL.SPARSE_INST.DECODER.NUM_MASKS"
    text = logged(config(own), caplog)
    assert f"\n  {key} 10\n" in text
    assert "Fewer are faster" in text
    assert "With fewer the rest are missed" in logged(config(own, key, "2"), caplog)
    assert "leaves some room" in logged(config(own, key, "10"), caplog)
    assert "NUM_MASKS" not in logged(config(own, name="sharpmask/sharpmask_r50"), caplog)


def test_the_summary_names_what_is_odd(own: OwnFiles, caplog: pytest.LogCaptureFixture) -> None:
    edit(own.train_json, lambda c: [a.update(category_id=3) for a in c["annotations"]])
    shared = OwnFiles(own.train_json, own.train_images, own.train_json, own.train_images)
    text = logged(config(shared), caplog)
    assert "no object of 2 of the 3 classes: nut, washer" in text
    assert "8 images are in the training and in the validation data" in text
