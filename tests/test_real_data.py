"""Real COCO images: the published model trains and evaluates; a small one learns some by heart."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.utils.env import seed_all_rng

from instseg_d2.config import load_config
from instseg_d2.engine import Trainer

pytestmark = [pytest.mark.slow, pytest.mark.needs_shared]


@pytest.fixture(scope="module")
def coco(shared: Path) -> Path:
    return shared / "data" / "coco_tiny" / "coco"


def test_published_config_trains_and_evaluates(
    repo: Path, coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ResNet-50 at a quarter of its input size, images with crowds and without objects included."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(coco.parent))
    overrides = {
        "MODEL.DEVICE": "cpu",
        "MODEL.WEIGHTS": "",
        "SOLVER.IMS_PER_BATCH": 2,
        "SOLVER.MAX_ITER": 4,
        "DATALOADER.NUM_WORKERS": 1,
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False,
        "INPUT.MIN_SIZE_TRAIN": "(160,)",
        "INPUT.MIN_SIZE_TEST": 160,
        "OUTPUT_DIR": tmp_path / "out",
    }
    done = subprocess.run(
        [
            sys.executable, "train_net.py",
            "--config-file", "configs/sparseinst/sparse_inst_r50_giam.yaml",
            *(str(part) for pair in overrides.items() for part in pair),
        ],
        cwd=repo, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "copypaste: Task: segm" in done.stdout
    assert (tmp_path / "out" / "model_final.pth").is_file()


def few_large_objects(annotation_file: Path, count: int) -> dict:
    """The first images of 640 x 480 whose one to four objects all cover 1.5 % of them, no crowds.

    One size, because images of several sizes are padded in training and not in evaluation: what is
    learned by heart holds for the padded images only.
    """
    data = json.loads(annotation_file.read_text())
    by_image = defaultdict(list)
    for annotation in data["annotations"]:
        by_image[annotation["image_id"]].append(annotation)

    def suits(image: dict) -> bool:
        if (image["width"], image["height"]) != (640, 480):
            return False
        annotations = by_image[image["id"]]
        smallest = 0.015 * image["width"] * image["height"]
        return 1 <= len(annotations) <= 4 and all(
            not annotation["iscrowd"] and annotation["area"] >= smallest
            for annotation in annotations
        )

    images = [i for i in sorted(data["images"], key=lambda i: i["id"]) if suits(i)][:count]
    annotations = [annotation for image in images for annotation in by_image[image["id"]]]
    return {**data, "images": images, "annotations": annotations}


@pytest.mark.timeout(1800)  # minutes of computation
def test_a_small_model_learns_eight_images_by_heart(coco: Path, tmp_path: Path) -> None:
    """Loading, targets, losses, inference and evaluation agree: else AP would not come near 100."""
    subset = few_large_objects(coco / "annotations" / "instances_train2017.json", 8)
    assert len(subset["images"]) == 8
    file = tmp_path / "eight.json"
    file.write_text(json.dumps(subset))
    name = "eight_coco_images"
    register_coco_instances(name, {}, str(file), str(coco / "train2017"))
    try:
        results = train_by_heart(name, tmp_path / "out")
    finally:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    assert results["segm"]["AP"] >= 90


def train_by_heart(name: str, output: Path) -> dict:
    """Results on the data that a slim model was trained on."""
    overrides = {
        "DATASETS.TRAIN": f"('{name}',)",
        "DATASETS.TEST": f"('{name}',)",
        "MODEL.SPARSE_INST.DECODER.NUM_CLASSES": 80,
        "INPUT.MIN_SIZE_TRAIN": "(192,)",
        "INPUT.MAX_SIZE_TRAIN": 300,
        "INPUT.MIN_SIZE_TEST": 192,
        "INPUT.MAX_SIZE_TEST": 300,
        "INPUT.RANDOM_FLIP": "none",
        "SOLVER.IMS_PER_BATCH": 8,
        "SOLVER.MAX_ITER": 200,
        "TEST.PRECISE_BN.NUM_ITER": 10,
        "OUTPUT_DIR": output,
    }
    flat = [str(part) for pair in overrides.items() for part in pair]
    cfg = load_config("quickstart/sparseinst_shapes", flat)
    cfg.freeze()
    seed_all_rng(1)
    trainer = Trainer(cfg)
    trainer.train()
    return trainer.test_results
