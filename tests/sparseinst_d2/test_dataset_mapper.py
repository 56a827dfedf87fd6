import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper
from pycocotools import mask as mask_util

from instseg_d2.config import load_config
from instseg_d2.data.shapes import ShapesSpec
from instseg_d2.data.shapes_dataset import register_shapes
from instseg_d2.errors import DataError
from sparseinst_d2 import SparseInstDatasetMapper

CONFIG = "sparseinst/sparse_inst_r50_giam"


@pytest.fixture(scope="module")
def records() -> list[dict]:
    train, _ = register_shapes(ShapesSpec(num_train=60, num_val=1, image_size=64))
    return DatasetCatalog.get(train)


def one_record(tmp_path: Path, annotations: list[dict]) -> dict:
    file = tmp_path / "image.png"
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, :30] = (10, 20, 200)  # BGR: red on the left
    cv2.imwrite(str(file), image)
    return {
        "file_name": str(file), "image_id": 1, "height": 40, "width": 60,
        "annotations": annotations,
    }  # fmt: skip


def annotation(segmentation: object, **extra: int) -> dict:
    return {
        "segmentation": segmentation, "bbox": [0, 0, 30, 40], "bbox_mode": 1, "category_id": 2,
        **extra,
    }  # fmt: skip


def mapper(*overrides: str, is_train: bool = True) -> SparseInstDatasetMapper:
    cfg = load_config(CONFIG, ["INPUT.MIN_SIZE_TRAIN", "(80,)", *overrides])
    return SparseInstDatasetMapper(cfg, is_train)


def test_record_stays_as_it_was(records: list[dict]) -> None:
    before = copy.deepcopy(records[0])
    mapper()(records[0])
    assert records[0] == before


def test_masks_follow_the_image(tmp_path: Path) -> None:
    """The red half is the instance: through flips and resizing they stay together."""
    record = one_record(tmp_path, [annotation([[0, 0, 30, 0, 30, 40, 0, 40]])])
    sides = set()
    for _ in range(12):
        output = mapper()(record)
        mask = output["instances"].gt_masks.tensor[0]
        assert output["image"].shape[1:] == mask.shape == (80, 120)
        assert output["image"].dtype == torch.uint8
        # Two columns of blending between the halves aside.
        agree = ((output["image"][0] > 100) == mask).float().mean()
        assert agree > 0.97
        sides.add(bool(mask[0, 0]))
    assert sides == {True, False}


def test_polygons_and_rle_give_the_same_masks(tmp_path: Path) -> None:
    polygon = [[5, 5, 35, 5, 35, 30, 5, 30]]
    rle = mask_util.merge(mask_util.frPyObjects(polygon, 40, 60))
    fixed = mapper("INPUT.RANDOM_FLIP", "none")
    masks = [
        fixed(one_record(tmp_path, [annotation(segmentation)]))["instances"].gt_masks.tensor
        for segmentation in (polygon, rle)
    ]
    assert (masks[0] == masks[1]).float().mean() > 0.99


def test_crowds_are_left_out_and_images_may_be_empty(tmp_path: Path) -> None:
    crowd = annotation([[0, 0, 30, 0, 30, 40, 0, 40]], iscrowd=1)
    for annotations in ([crowd], []):
        instances = mapper()(one_record(tmp_path, annotations))["instances"]
        assert len(instances) == 0
        assert instances.gt_masks.tensor.shape == (0, 80, 120)


def test_crop_is_one_of_two_branches(records: list[dict]) -> None:
    cropping = mapper(
        "INPUT.CROP.ENABLED", "True",
        "INPUT.CROP.TYPE", "absolute_range", "INPUT.CROP.SIZE", "[384, 384]",
    )  # fmt: skip
    plain_shape = mapper()(records[0])["image"].shape
    shapes = [tuple(cropping(records[0])["image"].shape) for _ in range(30)]
    # A crop of 384 x 384 is square, the image is not.
    cropped = [shape for shape in shapes if shape != tuple(plain_shape)]
    assert all(shape == (3, 80, 80) for shape in cropped)
    assert 5 <= len(cropped) <= 25


def test_instances_cropped_away_are_dropped(records: list[dict]) -> None:
    cropping = mapper("INPUT.CROP.ENABLED", "True", "INPUT.CROP.SIZE", "[0.2, 0.2]")
    counts, originals = [], []
    for record in records[:20]:
        instances = cropping(record)["instances"]
        assert instances.gt_masks.nonempty().all()
        assert len(instances) == len(instances.gt_classes) == len(instances.gt_boxes)
        counts.append(len(instances))
        originals.append(sum(not a["iscrowd"] for a in record["annotations"]))
    assert 0 < sum(counts) < sum(originals)


def test_inference_keeps_no_annotations(records: list[dict]) -> None:
    output = mapper(is_train=False)(records[0])
    assert "instances" not in output
    assert "annotations" not in output
    assert min(output["image"].shape[1:]) == 640


def test_an_image_too_narrow_to_be_resized_is_named(tmp_path: Path) -> None:
    record = one_record(tmp_path, [])
    cv2.imwrite(record["file_name"], np.zeros((1, 3000, 3), np.uint8))
    record |= {"height": 1, "width": 3000}
    with pytest.raises(DataError, match=r"image\.png.*image id 1.*3000 x 1"):
        mapper()(record)


def test_unreadable_image_names_file_and_id(tmp_path: Path) -> None:
    record = one_record(tmp_path, [])
    Path(record["file_name"]).write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"image\.png.*image id 1"):
        mapper()(record)


def test_an_instance_without_a_mask_names_file_and_id(tmp_path: Path) -> None:
    record = one_record(tmp_path, [annotation(None)])
    with pytest.raises(DataError, match=r"image\.png.*image id 1.*segmentation"):
        mapper()(record)


@pytest.mark.parametrize("flip", ["none", "horizontal", "vertical"])
@pytest.mark.parametrize("image_format", ["RGB", "BGR", "YUV-BT.601"])
def test_images_are_those_of_detectron2(tmp_path: Path, flip: str, image_format: str) -> None:
    record = one_record(tmp_path, [])
    cv2.imwrite(record["file_name"], np.random.randint(0, 256, (40, 60, 3), np.uint8))
    overrides = [
        "INPUT.RANDOM_FLIP", flip, "INPUT.FORMAT", image_format,
        "MODEL.PIXEL_MEAN", "[0.0,0.0,0.0]", "MODEL.PIXEL_STD", "[1.0,1.0,1.0]",
    ]  # fmt: skip
    ours = mapper(*overrides)
    theirs = DatasetMapper(load_config(CONFIG, ["INPUT.MIN_SIZE_TRAIN", "(80,)", *overrides]), True)
    for seed in range(4):
        images = []
        for one in (ours, theirs):
            np.random.seed(seed)
            images.append(one(record)["image"])
        assert images[0].dtype == images[1].dtype
        assert torch.equal(*images)
