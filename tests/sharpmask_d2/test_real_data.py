"""Real COCO objects: both stages of the published model run; a small one learns some by heart."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.utils.env import seed_all_rng

from instseg_d2.config import load_config
from instseg_d2.engine import Trainer

pytestmark = [pytest.mark.slow, pytest.mark.needs_shared]

DATASET = "eight_coco_objects"


@pytest.fixture(scope="module")
def coco(shared: Path) -> Path:
    return shared / "data" / "coco_tiny" / "coco"


def test_published_configs_train_and_evaluate(
    repo: Path, coco: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both stages at full size, one after the other, on images with crowds and without objects."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(coco.parent))
    weights = ""
    for config in ("deepmask_r50", "sharpmask_r50"):
        output = tmp_path / config
        overrides = {
            "MODEL.DEVICE": "cpu",
            "MODEL.WEIGHTS": weights,
            "SOLVER.IMS_PER_BATCH": 4,
            "SOLVER.MAX_ITER": 3,
            "MODEL.SHARP_MASK.SAMPLING.TEST_PATCHES": 16,
            "DATALOADER.NUM_WORKERS": 1,
            "OUTPUT_DIR": output,
        }
        pairs = [str(part) for pair in overrides.items() for part in pair]
        done = subprocess.run(
            [sys.executable, "train_net.py", "--config-file", f"sharpmask/{config}", *pairs],
            cwd=repo, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert "copypaste: Task: mask" in done.stdout
        weights = output / "model_final.pth"
        assert weights.is_file()


@pytest.fixture
def eight_objects(coco: Path, tmp_path: Path) -> Iterator[str]:
    """Eight images, each with its largest object that is no crowd and not most of the image."""
    data = json.loads((coco / "annotations" / "instances_train2017.json").read_text())
    annotations = []
    for image in sorted(data["images"], key=lambda image: image["id"]):
        size = image["width"] * image["height"]
        own = [
            annotation
            for annotation in data["annotations"]
            if annotation["image_id"] == image["id"]
            and not annotation["iscrowd"]
            and 0.03 < annotation["area"] / size < 0.3
        ]
        if own:
            annotations.append(max(own, key=lambda annotation: annotation["area"]))
    annotations = annotations[:8]
    ids = {annotation["image_id"] for annotation in annotations}
    images = [image for image in data["images"] if image["id"] in ids]
    file = tmp_path / "eight.json"
    file.write_text(json.dumps({**data, "images": images, "annotations": annotations}))
    register_coco_instances(DATASET, {}, str(file), str(coco / "train2017"))
    yield DATASET
    DatasetCatalog.remove(DATASET)
    MetadataCatalog.remove(DATASET)


def train_by_heart(config: str, output: Path, weights: str, iterations: int) -> dict:
    """Results on the objects that the quickstart's network was trained on."""
    overrides = {
        "DATASETS.TRAIN": f"('{DATASET}',)",
        "DATASETS.TEST": f"('{DATASET}',)",
        "MODEL.WEIGHTS": weights,
        "MODEL.SHARP_MASK.SAMPLING.MASK_SHARE": 1.0,
        # Always the same eight patches.
        "MODEL.SHARP_MASK.SAMPLING.SHIFT": 0.0,
        "MODEL.SHARP_MASK.SAMPLING.SCALE": 0.0,
        "MODEL.SHARP_MASK.SAMPLING.FLIP": 0.0,
        "MODEL.SHARP_MASK.SAMPLING.TEST_JITTER": 0.0,
        "MODEL.SHARP_MASK.SAMPLING.TEST_PATCHES": 64,
        "SOLVER.IMS_PER_BATCH": 8,
        "SOLVER.MAX_ITER": iterations,
        "OUTPUT_DIR": output,
    }
    pairs = [str(part) for pair in overrides.items() for part in pair]
    cfg = load_config(f"quickstart/{config}", pairs)
    cfg.freeze()
    seed_all_rng(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    return trainer.test_results


def test_a_small_model_learns_eight_objects_by_heart(eight_objects: str, tmp_path: Path) -> None:
    """Sampling, targets, losses and evaluation agree: else the IoU would not come near 1."""
    coarse = train_by_heart("deepmask_shapes", tmp_path / "deepmask", "", 200)
    weights = str(tmp_path / "deepmask" / "model_final.pth")
    sharp = train_by_heart("sharpmask_shapes", tmp_path / "sharpmask", weights, 400)
    assert sharp["coarse mask"]["mean IoU"] == pytest.approx(coarse["mask"]["mean IoU"], abs=0.01)
    assert coarse["mask"]["mean IoU"] >= 80
    assert sharp["mask"]["mean IoU"] >= 90
