"""The shapes data set on disk and in Detectron2's catalogs."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import BitMasks, Instances
from pycocotools.coco import COCO

from instseg_d2.data.shapes import CLASS_NAMES, ShapesSpec, render_image
from instseg_d2.data.shapes_dataset import (
    CACHE_VARIABLE,
    CATEGORY_IDS,
    coco_segmentation,
    ensure_shapes,
    polygons_from_mask,
    register_shapes,
    shapes_folder,
)
from instseg_d2.errors import ConfigError, DataError

SMALL = ShapesSpec(num_train=120, num_val=10, seed=3)
FEW = ShapesSpec(num_train=3, num_val=2, image_size=64)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SMALL, written once for all tests that only read it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        return ensure_shapes(SMALL)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def prefix() -> Iterator[str]:
    """A prefix whose names leave the catalogs after the test."""
    yield "shapes_test"
    for name in ("shapes_test_train", "shapes_test_val"):
        DatasetCatalog.pop(name, None)
        MetadataCatalog.pop(name, None)


def read_json(folder: Path, split: str) -> dict[str, Any]:
    return json.loads((folder / f"annotations_{split}.json").read_text())


def decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    """bool (height, width) from any of COCO's three forms."""
    if isinstance(segmentation, list):
        segmentation = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        segmentation = mask_util.frPyObjects(segmentation, height, width)
    return mask_util.decode(segmentation).astype(bool)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        total.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()


# ----------------------------------------------------------------------------- segmentations


def test_rectangle_becomes_its_polygon() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:12, 7:25] = True
    (polygon,) = polygons_from_mask(mask)
    points = np.array(polygon).reshape(-1, 2)
    np.testing.assert_allclose(points.min(0), [7, 4], atol=0.1)
    np.testing.assert_allclose(points.max(0), [25, 12], atol=0.1)
    assert iou(decode([polygon], 20, 30), mask) == 1


def test_parts_become_several_polygons() -> None:
    mask = np.zeros((20, 30), bool)
    mask[2:10, 2:10] = mask[2:10, 15:28] = mask[14:19, 5:20] = True
    segmentation = coco_segmentation(mask)
    assert isinstance(segmentation, list)
    assert len(segmentation) == 3
    assert iou(decode(segmentation, 20, 30), mask) == 1


def test_hole_becomes_compressed_rle() -> None:
    mask = np.zeros((20, 30), bool)
    mask[2:12, 2:12] = True
    mask[6, 6] = False
    segmentation = coco_segmentation(mask)
    assert isinstance(segmentation, dict)
    assert isinstance(segmentation["counts"], str)
    assert segmentation["size"] == [20, 30]
    np.testing.assert_array_equal(mask_util.decode(segmentation), mask)


def test_crowd_becomes_uncompressed_rle() -> None:
    mask = np.array([[1, 0, 1], [1, 0, 0]], bool)
    assert coco_segmentation(mask, iscrowd=True) == {"counts": [0, 2, 2, 1, 1], "size": [2, 3]}
    mask[0, 0] = False
    assert coco_segmentation(mask, iscrowd=True) == {"counts": [1, 1, 2, 1, 1], "size": [2, 3]}


def test_specks_that_polygons_cannot_express_become_rle() -> None:
    mask = np.eye(8, dtype=bool)
    segmentation = coco_segmentation(mask)
    assert iou(decode(segmentation, 8, 8), mask) > 0.9


# -------------------------------------------------------------------------------- annotations


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_say_what_was_drawn(written: Path, split: str) -> None:
    content = read_json(written, split)
    by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        by_image[annotation["image_id"]].append(annotation)
    for image in content["images"]:
        pixels, instances = render_image(SMALL, split, image["id"] - 1)
        assert (image["height"], image["width"]) == pixels.shape[:2]
        stored = cv2.imread(str(written / split / image["file_name"]))[..., ::-1]
        np.testing.assert_array_equal(stored, pixels)
        annotations = by_image[image["id"]]
        assert len(annotations) == len(instances)
        for annotation, instance in zip(annotations, instances, strict=True):
            mask = instance.mask
            assert annotation["category_id"] == CATEGORY_IDS[instance.category]
            assert annotation["iscrowd"] == instance.iscrowd
            assert annotation["area"] == mask.sum()
            rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
            assert annotation["bbox"] == mask_util.toBbox(rle).tolist()
            segmentation = annotation["segmentation"]
            overlap = iou(decode(segmentation, *mask.shape), mask)
            assert overlap == 1 if isinstance(segmentation, dict) else overlap > 0.9


def test_all_three_forms_of_segmentation_occur(written: Path) -> None:
    forms = {
        (bool(a["iscrowd"]), type(a["segmentation"]), len(a["segmentation"]) > 1)
        for a in read_json(written, "train")["annotations"]
    }
    assert forms >= {(False, list, False), (False, list, True), (False, dict, True)}
    assert (True, dict, True) in forms


def test_most_objects_without_holes_are_polygons(written: Path) -> None:
    ring = CATEGORY_IDS[CLASS_NAMES.index("ring")]
    annotations = [a for a in read_json(written, "train")["annotations"] if not a["iscrowd"]]
    others = [isinstance(a["segmentation"], list) for a in annotations if a["category_id"] != ring]
    assert np.mean(others) > 0.9


def test_ids_are_unique_and_categories_have_gaps(written: Path) -> None:
    for split, number in (("train", 120), ("val", 10)):
        content = read_json(written, split)
        assert [image["id"] for image in content["images"]] == list(range(1, number + 1))
        ids = [a["id"] for a in content["annotations"]]
        assert len(set(ids)) == len(ids)
        assert {a["category_id"] for a in content["annotations"]} <= set(CATEGORY_IDS)
        assert [c["name"] for c in content["categories"]] == list(CLASS_NAMES)
    assert max(CATEGORY_IDS) > len(CATEGORY_IDS) == len(CLASS_NAMES)


def test_coco_api_reads_it(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    coco = COCO(str(written / "annotations_train.json"))
    for annotation in coco.anns.values():
        mask = coco.annToMask(annotation)
        assert abs(int(mask.sum()) - annotation["area"]) <= 0.1 * annotation["area"]


# ---------------------------------------------------------------------------------------- cache


def test_folder_depends_on_every_field_and_on_the_variable(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = ShapesSpec()
    specs = [base, ShapesSpec(1999), ShapesSpec(num_val=3), ShapesSpec(image_size=96)]
    folders = {shapes_folder(spec) for spec in [*specs, ShapesSpec(seed=1), ShapesSpec()]}
    assert len(folders) == 5
    assert all(cache in folder.parents for folder in folders)
    assert not cache.exists()
    monkeypatch.delenv(CACHE_VARIABLE)
    assert Path.home() / ".cache" / "instseg_d2" in shapes_folder(base).parents


def test_new_generator_version_gives_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    before = shapes_folder(FEW)
    monkeypatch.setattr("instseg_d2.data.shapes_dataset.GENERATOR_VERSION", -1)
    assert shapes_folder(FEW) != before


def test_second_call_renders_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ensure_shapes(FEW)
    monkeypatch.setattr("instseg_d2.data.shapes_dataset.render_image", None)
    assert ensure_shapes(FEW) == folder


@pytest.mark.parametrize(
    "lost", ["complete.json", "annotations_val.json", "train/000002.png", "train", "."]
)
def test_damaged_cache_is_made_anew(cache: Path, lost: str) -> None:
    folder = ensure_shapes(FEW)
    before = digest(folder)
    if lost == ".":
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
    elif lost == "train":
        for path in (folder / lost).iterdir():
            path.unlink()
        (folder / lost).rmdir()
    else:
        (folder / lost).unlink()
    assert digest(folder) != before
    assert digest(ensure_shapes(FEW)) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "leftovers"


def test_interruption_leaves_nothing_behind(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("instseg_d2.data.shapes_dataset.render_image", interrupt)
        with pytest.raises(KeyboardInterrupt):
            ensure_shapes(FEW)
    assert list((cache / "shapes").iterdir()) == []
    assert (ensure_shapes(FEW) / "complete.json").is_file()


def test_unwritable_cache_names_folder_and_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    occupied = tmp_path / "a_file"
    occupied.write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(occupied))
    with pytest.raises(DataError) as error:
        ensure_shapes(FEW)
    assert str(occupied) in str(error.value)
    assert CACHE_VARIABLE in str(error.value)


def test_slower_of_two_leaves_the_folder_of_the_faster(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faster: list[int] = []

    def render(*arguments: Any) -> Any:
        if not faster:
            monkeypatch.setattr("instseg_d2.data.shapes_dataset.render_image", render_image)
            faster.append(ensure_shapes(FEW).stat().st_ino)
        return render_image(*arguments)

    monkeypatch.setattr("instseg_d2.data.shapes_dataset.render_image", render)
    folder = ensure_shapes(FEW)
    assert [folder.stat().st_ino] == faster
    assert [path.name for path in folder.parent.iterdir()] == [folder.name], "leftovers"


# Says when it is ready, waits for a line, then makes one set for each number of training images.
PROCESS = """
import sys
from instseg_d2.data import ShapesSpec, ensure_shapes
print("ready", flush=True)
sys.stdin.readline()
for number in {numbers}:
    print(ensure_shapes(ShapesSpec(num_train=number, num_val=2, image_size=64)))
"""


def start(numbers: list[int], **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PROCESS.format(numbers=numbers)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        cwd=Path(__file__).resolve().parents[3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_processes_agree_to_the_byte(cache: Path, tmp_path: Path) -> None:
    process = start([20], INSTSEG_D2_CACHE=str(tmp_path / "other"), PYTHONHASHSEED="77")
    output = process.communicate("go\n", timeout=120)[0].split()
    here = ensure_shapes(ShapesSpec(num_train=20, num_val=2, image_size=64))
    assert Path(output[-1]) != here
    assert digest(Path(output[-1])) == digest(here)


@pytest.mark.slow
def test_two_processes_at_once(cache: Path) -> None:
    """On an empty and on a damaged cache."""
    numbers = [80, 81]
    folders = [shapes_folder(ShapesSpec(number, 2, image_size=64)) for number in numbers]
    folders[1].mkdir(parents=True)
    (folders[1] / "rest.txt").write_text("of an older run")
    processes = [start(numbers) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120)[0].split() for process in processes]
    assert outputs == [[str(folder) for folder in folders]] * 2
    for number, folder in zip(numbers, folders, strict=True):
        assert len(list((folder / "train").iterdir())) == number
        assert not (folder / "rest.txt").exists()
    assert {path.name for path in (cache / "shapes").iterdir()} == {f.name for f in folders}


# ----------------------------------------------------------------------------------- Detectron2


def test_registration_draws_nothing(cache: Path, prefix: str) -> None:
    names = register_shapes(FEW, prefix)
    assert names == ("shapes_test_train", "shapes_test_val")
    metadata = MetadataCatalog.get(names[0])
    assert metadata.thing_classes == list(CLASS_NAMES)
    assert len(metadata.thing_colors) == len(CLASS_NAMES)
    assert metadata.evaluator_type == "coco"
    assert not cache.exists()


def test_loaded_records(cache: Path, prefix: str) -> None:
    train, val = register_shapes(FEW, prefix)
    records = DatasetCatalog.get(train)
    assert len(records) == 3
    assert len(DatasetCatalog.get(val)) == 2
    for record in records:
        assert Path(record["file_name"]).is_file()
        assert all(0 <= a["category_id"] < len(CLASS_NAMES) for a in record["annotations"])
    metadata = MetadataCatalog.get(train)
    assert Path(metadata.json_file).is_file()
    assert Path(metadata.image_root) == Path(records[0]["file_name"]).parent


def test_other_spec_replaces(cache: Path, prefix: str) -> None:
    train, _ = register_shapes(FEW, prefix)
    assert len(DatasetCatalog.get(train)) == 3
    register_shapes(ShapesSpec(num_train=5, num_val=1, image_size=64), prefix)
    assert len(DatasetCatalog.get(train)) == 5
    assert len(COCO(MetadataCatalog.get(train).json_file).imgs) == 5


def test_foreign_name_is_not_replaced(prefix: str) -> None:
    DatasetCatalog.register("shapes_test_val", list)
    with pytest.raises(ConfigError, match="shapes_test_val"):
        register_shapes(FEW, prefix)
    assert "shapes_test_train" not in DatasetCatalog.list()
    assert DatasetCatalog.get("shapes_test_val") == []


def evaluate(name: str, records: list[dict[str, Any]], output: Path) -> dict[str, float]:
    """COCO evaluation of the ground truth itself."""
    evaluator = COCOEvaluator(name, tasks=("segm",), distributed=False, output_dir=str(output))
    evaluator.reset()
    for record in records:
        size = (record["height"], record["width"])
        objects = [a for a in record["annotations"] if not a["iscrowd"]]
        instances = Instances(size)
        masks = [decode(a["segmentation"], *size) for a in objects]
        instances.pred_masks = torch.from_numpy(np.array(masks).reshape(-1, *size))
        instances.pred_boxes = BitMasks(instances.pred_masks).get_bounding_boxes()
        instances.pred_classes = torch.tensor([a["category_id"] for a in objects]).long()
        instances.scores = torch.ones(len(objects))
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()["segm"]


def test_evaluator_comes_before_the_data(cache: Path, prefix: str, tmp_path: Path) -> None:
    _, val = register_shapes(ShapesSpec(num_train=1, num_val=12, image_size=96), prefix)
    COCOEvaluator(val, output_dir=str(tmp_path))
    results = evaluate(val, DatasetCatalog.get(val), tmp_path)
    assert results["AP"] == pytest.approx(100)


def test_dataset_mapper_and_crowds(cache: Path, prefix: str) -> None:
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MASK_FORMAT = "bitmask"
    cfg.INPUT.MIN_SIZE_TRAIN = (96,)
    mapper = DatasetMapper(cfg, is_train=True)
    train, _ = register_shapes(SMALL, prefix)
    crowds = empty = 0
    for record in DatasetCatalog.get(train):
        objects = [a for a in record["annotations"] if not a["iscrowd"]]
        crowds += len(record["annotations"]) - len(objects)
        empty += not record["annotations"]
        mapped = mapper(record)
        assert mapped["image"].shape[0] == 3
        assert min(mapped["image"].shape[1:]) == 96
        instances = mapped["instances"]
        assert len(instances) <= len(objects)
        if objects:
            assert instances.gt_masks.tensor.shape[1:] == mapped["image"].shape[1:]
    assert crowds > 0
    assert empty > 0
