"""``train_net.py`` on data of LVIS and Cityscapes, in the folders where Detectron2 looks for it."""

import json
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

from tests.training_runs import FIND_SOMETHING, train_net

pytestmark = pytest.mark.slow

CONFIG = ["--config-file", "sparseinst/sparse_inst_r50_giam"]
HEIGHT, WIDTH = 64, 96
BOXES = ((8, 8, 24, 32), (50, 20, 30, 40))
"""[x, y, width, height] of the objects of each image."""


def draw(path: Path, rng: np.random.Generator) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))


def polygon(x: int, y: int, width: int, height: int) -> list[list[int]]:
    return [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]


def make_lvis(root: Path) -> None:
    """Three images, of which each was searched for four categories in vain."""
    rng = np.random.default_rng(0)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, 4):
        name = f"val2017/{number:012}.jpg"
        draw(root / "coco" / name, rng)
        categories = [int(key) for key in rng.choice(1203, 6, replace=False) + 1]
        images.append(
            {
                "id": number, "height": HEIGHT, "width": WIDTH,
                "coco_url": f"http://images.cocodataset.org/{name}",
                "neg_category_ids": categories[2:],
                "not_exhaustive_category_ids": categories[:1],
            }
        )  # fmt: skip
        for box, category in zip(BOXES, categories, strict=False):
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "category_id": category,
                    "bbox": box, "area": box[2] * box[3],
                    "segmentation": [np.ravel(polygon(*box)).tolist()],
                }
            )  # fmt: skip
    content = {"images": images, "annotations": annotations, "categories": LVIS_CATEGORIES}
    (root / "lvis").mkdir()
    for split in ("train", "val"):
        (root / "lvis" / f"lvis_v1_{split}.json").write_text(json.dumps(content))


def make_cityscapes(root: Path) -> None:
    """Two images of a person and a car for each split."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        truth = root / "cityscapes" / "gtFine" / split / "bonn"
        truth.mkdir(parents=True)
        for number in range(2):
            stem = f"bonn_{number:06}_000019"
            folder = root / "cityscapes" / "leftImg8bit" / split / "bonn"
            draw(folder / f"{stem}_leftImg8bit.png", rng)
            instances = np.zeros((HEIGHT, WIDTH), np.uint16)
            objects = []
            for box, name, label in zip(BOXES, ("person", "car"), (24, 26), strict=True):
                x, y, width, height = box
                instances[y : y + height, x : x + width] = 1000 * label
                objects.append({"label": name, "polygon": polygon(*box)})
            cv2.imwrite(str(truth / f"{stem}_gtFine_instanceIds.png"), instances)
            labels = (instances // 1000).astype(np.uint8)
            cv2.imwrite(str(truth / f"{stem}_gtFine_labelIds.png"), labels)
            polygons = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}
            (truth / f"{stem}_gtFine_polygons.json").write_text(json.dumps(polygons))


@pytest.mark.parametrize(
    ("package", "make", "names", "num_classes", "metrics"),
    [
        ("lvis", make_lvis, ("lvis_v1_train", "lvis_v1_val"), 1203,
         "AP,AP50,AP75,APs,APm,APl,APr,APc,APf"),
        ("cityscapesscripts", make_cityscapes,
         ("cityscapes_fine_instance_seg_train", "cityscapes_fine_instance_seg_val"), 8, "AP,AP50"),
    ],
)  # fmt: skip
def test_training_ends_with_the_figures_of_the_data_set(
    repo: Path,
    tmp_path: Path,
    tiny_overrides: list[str],
    package: str,
    make: Any,
    names: tuple[str, str],
    num_classes: int,
    metrics: str,
) -> None:
    pytest.importorskip(package)
    make(tmp_path / "data")
    own = {
        "DATASETS.TRAIN": f"('{names[0]}',)",
        "DATASETS.TEST": f"('{names[1]}',)",
        "MODEL.SPARSE_INST.DECODER.NUM_CLASSES": num_classes,
        "SOLVER.MAX_ITER": 2,
        "OUTPUT_DIR": "out",
    }
    overrides = [str(part) for pair in own.items() for part in pair]
    env = {**os.environ, "DETECTRON2_DATASETS": str(tmp_path / "data")}
    done = train_net(repo, tmp_path, *CONFIG, *tiny_overrides, *FIND_SOMETHING, *overrides, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"copypaste: {metrics}" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out"]
    if package == "lvis":
        results = json.loads((tmp_path / "out/inference/lvis_instances_results.json").read_text())
        assert len(results) > 3
        assert all(1 <= result["category_id"] <= 1203 for result in results)
