"""Detectors on proposals from a file, through the engine, as ``train_net.py`` runs them."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode

from instseg_d2.config import load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.engine import Trainer
from instseg_d2.errors import UserError

SMALL = {
    "MODEL.FPN.OUT_CHANNELS": 8,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 16,
    "TEST.PRECISE_BN.NUM_ITER": 2,
    "DATASETS.SHAPES.NUM_TRAIN": 24,
}
FEW = [part for pair in SMALL.items() for part in map(str, pair)]


def true_boxes(record: dict[str, Any]) -> np.ndarray:
    """(n, 4) XYXY float32, crowds left out."""
    boxes = [
        BoxMode.convert(one["bbox"], one["bbox_mode"], BoxMode.XYXY_ABS)
        for one in record["annotations"]
        if not one["iscrowd"]
    ]
    return np.array(boxes, np.float32).reshape(-1, 4)


def write_proposals(folder: Path, cfg: CfgNode) -> list[str]:
    """Files for both data sets: the true boxes with logits 0, 1, 2 ..., then 20 boxes of -1.

    Returns:
        the overrides that name them.
    """
    register_config_datasets(cfg)
    random = np.random.default_rng(0)
    overrides = []
    for split in ("TRAIN", "TEST"):
        (name,) = cfg.DATASETS[split]
        content: dict[str, Any] = {"ids": [], "boxes": [], "objectness_logits": [], "bbox_mode": 0}
        for record in reversed(DatasetCatalog.get(name)):  # any order will do
            boxes = true_boxes(record)
            corners = random.uniform(0, 30, (20, 2))
            others = np.concatenate([corners, corners + random.uniform(5, 30, (20, 2))], axis=1)
            content["ids"].append(record["image_id"])
            content["boxes"].append(np.concatenate([boxes, others]).astype(np.float32))
            logits = np.concatenate([np.arange(len(boxes)), np.full(20, -1.0)])
            content["objectness_logits"].append(logits.astype(np.float32))
        path = folder / f"{name}_boxes.pkl"
        path.write_bytes(pickle.dumps(content))
        overrides += [f"DATASETS.PROPOSAL_FILES_{split}", f"('{path}',)"]
    return overrides


@pytest.fixture
def overrides(tmp_path: Path, tiny_overrides: list[str]) -> list[str]:
    """Overrides that make a detector and its data small, with proposals for the data."""
    cfg = load_config("quickstart/fast_rcnn_shapes", [*tiny_overrides, *FEW])
    return [*tiny_overrides, *FEW, *write_proposals(tmp_path, cfg)]


def test_proposals_move_with_the_image(overrides: list[str]) -> None:
    """Resized and flipped as the objects are, best first, and no more of them than asked for."""
    # The shapes' own size is another.
    sizes = ["INPUT.MIN_SIZE_TRAIN", "(80, 96)", "INPUT.MAX_SIZE_TRAIN", "160"]
    top = ["DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN", "12"]
    cfg = load_config("quickstart/fast_rcnn_shapes", [*overrides, *sizes, *top])
    batches = iter(Trainer.build_train_loader(cfg))
    samples = [sample for _ in range(12) for sample in next(batches)]
    moved = 0
    for sample in samples:
        truth, given = sample["instances"], sample["proposals"]
        logits = given.objectness_logits
        assert len(given) <= 12
        assert torch.equal(logits, logits.sort(descending=True).values)
        count = len(truth)
        assert logits[:count].tolist() == list(range(count))[::-1]
        boxes = given.proposal_boxes.tensor[:count].flip(0)
        # Detectron2 cuts boxes of integers, as the shapes' are, to integers where it resizes.
        torch.testing.assert_close(boxes, truth.gt_boxes.tensor, rtol=0, atol=1)
        original = next(
            record
            for record in DatasetCatalog.get("shapes_train")
            if record["image_id"] == sample["image_id"]
        )
        scale = sample["image"].shape[2] / sample["width"]
        stayed = torch.allclose(
            torch.from_numpy(true_boxes(original)) * scale, truth.gt_boxes.tensor, atol=2
        )
        moved += not stayed
    assert 0 < moved < len(samples)  # flipped with a probability of one half


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["MODEL.ROI_HEADS.NUM_CLASSES", "5"], "set MODEL.ROI_HEADS.NUM_CLASSES 6"),
        (["DATASETS.PROPOSAL_FILES_TRAIN", "()"], "DATASETS.PROPOSAL_FILES_TRAIN 0 files"),
        (["DATASETS.PROPOSAL_FILES_TRAIN", "('gone.pkl',)"], "gone.pkl does not exist"),
    ],
)
def test_data_and_proposals_must_fit(
    changes: list[str], message: str, overrides: list[str]
) -> None:
    cfg = load_config("quickstart/fast_rcnn_shapes", [*overrides, *changes])
    register_config_datasets(cfg)
    with pytest.raises(UserError, match=message):
        Trainer.build_train_loader(cfg)


def train_net(repo: Path, folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(repo / "train_net.py"), *args],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def metrics_of(folder: Path) -> dict[str, float]:
    lines = (folder / "metrics.json").read_text().splitlines()
    return {key: value for line in lines for key, value in json.loads(line).items()}


def test_training_on_proposals(repo: Path, tmp_path: Path, overrides: list[str]) -> None:
    """A few steps, and an evaluation of boxes alone."""
    find_something = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    args = ["--config-file", "quickstart/fast_rcnn_shapes", *overrides, *find_something]
    done = train_net(repo, tmp_path, *args, "OUTPUT_DIR", "out")
    metrics = metrics_of(tmp_path / "out")
    assert np.isfinite([metrics["loss_cls"], metrics["loss_box_reg"], metrics["bbox/AP"]]).all()
    assert not [key for key in metrics if key.startswith("segm")]
    assert "Task: bbox" in done.stdout
    results = json.loads(
        (tmp_path / "out" / "inference" / "coco_instances_results.json").read_text()
    )
    assert len(results) > 0
    assert not [result for result in results if "segmentation" in result]
    assert (tmp_path / "out" / "model_final.pth").is_file()


@pytest.mark.slow
def test_training_a_region_proposal_network(
    repo: Path, tmp_path: Path, overrides: list[str]
) -> None:
    """What quickstart proposals are compared with."""
    args = ["--config-file", "quickstart/rpn_shapes", *overrides, "OUTPUT_DIR", "out"]
    train_net(repo, tmp_path, *args)
    metrics = metrics_of(tmp_path / "out")
    assert metrics["box_proposals/AR@100"] > 0
