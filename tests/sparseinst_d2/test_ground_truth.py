"""Equality, to the bit, with what Detectron2 makes of the same annotations."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BitMasks, BoxMode, Instances
from pycocotools import mask as mask_util

from instseg_d2.config import load_config
from instseg_d2.errors import DataError
from sparseinst_d2 import SparseInstDatasetMapper
from sparseinst_d2.ground_truth import ground_truth

SIZE = (60, 80)

TRANSFORMS = {
    "nothing": [T.NoOpTransform()],
    "enlarged": [T.ResizeTransform(*SIZE, 101, 133)],
    "shrunk": [T.ResizeTransform(*SIZE, 17, 29)],
    "shrunk to a pixel": [T.ResizeTransform(*SIZE, 1, 1)],
    "flipped": [T.HFlipTransform(80), T.VFlipTransform(60)],
    "resized and flipped": [T.ResizeTransform(*SIZE, 90, 120), T.HFlipTransform(120)],
    "cropped": [
        T.HFlipTransform(80), T.ResizeTransform(*SIZE, 75, 100), T.CropTransform(20, 30, 50, 40),
        T.ResizeTransform(40, 50, 64, 80),
    ],
    "turned": [T.RotationTransform(*SIZE, 30.0, expand=False), T.ResizeTransform(*SIZE, 80, 90)],
}  # fmt: skip
each_transform = pytest.mark.parametrize("chain", TRANSFORMS.values(), ids=TRANSFORMS)


def of_detectron2(
    annotations: list[dict], transforms: T.TransformList, after: tuple[int, int]
) -> Instances:
    transformed = [
        detection_utils.transform_instance_annotations(one, transforms, after)
        for one in copy.deepcopy(annotations)
        if not one.get("iscrowd", 0)
    ]
    instances = detection_utils.annotations_to_instances(transformed, after, mask_format="bitmask")
    if not instances.has("gt_masks"):
        instances.gt_masks = BitMasks(torch.zeros(0, *after, dtype=torch.bool))
    return instances[instances.gt_masks.nonempty()]


def assert_same(annotations: list[dict], chain: list, size: tuple[int, int] = SIZE) -> Instances:
    transforms = T.TransformList(chain)
    after = transforms.apply_segmentation(np.zeros(size, np.uint8)).shape
    before = copy.deepcopy(annotations)
    actual = ground_truth(annotations, transforms, size, after)
    for one, kept in zip(annotations, before, strict=True):
        np.testing.assert_equal(one, kept)
    expected = of_detectron2(annotations, transforms, after)
    assert list(actual.get_fields()) == list(expected.get_fields())
    assert actual.image_size == expected.image_size
    assert torch.equal(actual.gt_masks.tensor, expected.gt_masks.tensor)
    assert torch.equal(actual.gt_boxes.tensor, expected.gt_boxes.tensor)
    assert torch.equal(actual.gt_classes, expected.gt_classes)
    return actual


def polygon(kind: str = "float") -> list | np.ndarray:
    """Random corners, some outside the image."""
    corners = np.random.uniform(-10, 90, (np.random.randint(3, 9), 2)).flatten()
    if kind == "int":
        return corners.astype(int).tolist()
    if kind == "decimal":  # halves and tenths, where rounding could differ
        return corners.round(1).tolist()
    return corners.tolist() if kind == "float" else corners


def code(density: float = 0.5) -> dict:
    mask = np.zeros(SIZE, np.uint8, order="F")
    (top, bottom), (left, right) = (np.sort(np.random.randint(0, side + 1, 2)) for side in SIZE)
    mask[top:bottom, left:right] = np.random.rand(bottom - top, right - left) < density
    return mask_util.encode(mask)


def annotation(segmentation: object, **extra: object) -> dict:
    return {
        "bbox": np.random.uniform(0, 60, 4).tolist(), "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": int(np.random.randint(5)), "segmentation": segmentation, **extra,
    }  # fmt: skip


@each_transform
@pytest.mark.parametrize("kind", ["float", "decimal", "int", "array"])
def test_polygons(chain: list, kind: str) -> None:
    for num in (1, 7, 30):
        parts = np.random.randint(1, 4, num)
        assert_same([annotation([polygon(kind) for _ in range(n)]) for n in parts], chain)


@each_transform
def test_polygons_of_several_kinds(chain: list) -> None:
    assert_same([annotation([polygon(kind)]) for kind in ("float", "int", "array", "int")], chain)


@each_transform
@pytest.mark.parametrize("density", [0.02, 0.5, 1.0])
def test_run_length_codes(chain: list, density: float) -> None:
    assert_same([annotation(code(density)) for _ in range(30)], chain)


@each_transform
def test_kinds_of_annotations_may_be_mixed(chain: list) -> None:
    text = code()
    annotations = [
        annotation([polygon()]),
        annotation({**text, "counts": text["counts"].decode()}),
        annotation([polygon(), polygon()], iscrowd=1),
        annotation([[-30.0, -30, -20, -30, -20, -20]]),  # outside
        annotation(mask_util.encode(np.zeros(SIZE, np.uint8, order="F"))),
        annotation(code(1.0), iscrowd=0),
        annotation([polygon()]),
    ]
    instances = assert_same(annotations, chain)
    assert len(instances) <= 4


@each_transform
def test_no_annotations(chain: list) -> None:
    assert len(assert_same([], chain)) == 0


@pytest.mark.parametrize(
    "boxes",
    [
        [[1.3, 2.7, 10.1, 20.9], [0.1, 0.2, 79.9, 59.8]],
        [[1, 2, 10, 20], [3, 5, 7, 9]],
        [[1, 2.5, 10, 20], [3, 5, 7, 9]],
        [(1.5, 2.0, 10.25, 20.0)],
        [[-5.5, -5, 200, 200.0]],
    ],
)
@pytest.mark.parametrize("mode", [BoxMode.XYWH_ABS, BoxMode.XYXY_ABS])
def test_boxes(boxes: list, mode: BoxMode) -> None:
    whole = [[0.0, 0, 80, 0, 80, 60, 0, 60]]
    for chain in (TRANSFORMS["resized and flipped"], TRANSFORMS["shrunk"]):
        assert_same([annotation(whole, bbox=box, bbox_mode=mode) for box in boxes], chain)


def test_boxes_of_several_modes() -> None:
    whole = [[0.0, 0, 80, 0, 80, 60, 0, 60]]
    modes = (BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    annotations = [annotation(whole, bbox_mode=mode) for mode in modes]
    assert_same(annotations, TRANSFORMS["enlarged"])


def test_masks_left_out_take_no_memory() -> None:
    outside = [[-30.0, -30, -20, -30, -20, -20]]
    annotations = [annotation(outside) for _ in range(9)] + [annotation([polygon()])]
    masks = ground_truth(annotations, T.TransformList([]), SIZE, SIZE).gt_masks.tensor
    assert masks.untyped_storage().nbytes() == masks.numel()


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "NoneType"),
        (mask_util.encode(np.ones((50, 80), np.uint8, order="F")), r"\(50, 80\).*\(60, 80\)"),
    ],
)
def test_unusable_segmentations_are_explained(segmentation: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ground_truth([annotation(segmentation)], T.TransformList([]), SIZE, SIZE)


@pytest.fixture(scope="module")
def coco(shared: Path) -> list[dict]:
    folder = shared / "data" / "coco_tiny" / "coco"
    records = load_coco_json(
        str(folder / "annotations" / "instances_train2017.json"), str(folder / "train2017")
    )
    return sorted(records, key=lambda record: -len(record["annotations"]))


@pytest.mark.parametrize("overrides", [[], ["INPUT.CROP.ENABLED", "True"]])
@pytest.mark.parametrize("as_codes", [False, True])
def test_samples_of_coco(coco: list[dict], overrides: list[str], as_codes: bool) -> None:
    """Whole samples, those with the most instances, and their random states."""
    mapper = SparseInstDatasetMapper(
        load_config("sparseinst/sparse_inst_r50_giam", overrides), True
    )
    for seed, record in enumerate(copy.deepcopy(coco[:8])):
        if as_codes:
            for one in record["annotations"]:
                if isinstance(one["segmentation"], list):
                    polygons = one["segmentation"], record["height"], record["width"]
                    one["segmentation"] = mask_util.merge(mask_util.frPyObjects(*polygons))
        np.random.seed(seed)
        actual = mapper(record)
        state = np.random.get_state()[1:3]

        np.random.seed(seed)
        inputs = T.AugInput(detection_utils.read_image(record["file_name"], mapper.image_format))
        transforms = mapper._draw_augmentations()(inputs)
        np.testing.assert_equal(np.random.get_state()[1:3], state)
        expected = of_detectron2(record["annotations"], transforms, inputs.image.shape[:2])
        assert np.array_equal(actual["image"], inputs.image.transpose(2, 0, 1))
        assert torch.equal(actual["instances"].gt_masks.tensor, expected.gt_masks.tensor)
        assert torch.equal(actual["instances"].gt_boxes.tensor, expected.gt_boxes.tensor)
        assert torch.equal(actual["instances"].gt_classes, expected.gt_classes)
