"""What ``train_net.py`` evaluates DeepMask and SharpMask on."""

import json
import re
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from instseg_d2.config import load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.engine import Trainer, setup
from instseg_d2.errors import ConfigError
from instseg_d2.modeling import build_model
from sharpmask_d2 import PatchEvaluator, ProposalEvaluator

CONFIG = "sharpmask/sharpmask_r50"


@pytest.mark.parametrize(
    ("value", "eval_only", "evaluator"),
    [
        ("auto", False, PatchEvaluator),
        ("auto", True, ProposalEvaluator),
        ("patches", True, PatchEvaluator),
        ("proposals", False, ProposalEvaluator),
    ],
)
def test_patches_while_training_and_proposals_afterwards(
    value: str, eval_only: bool, evaluator: type, tiny_overrides: list[str], tmp_path: Path
) -> None:
    opts = [*tiny_overrides, "MODEL.SHARP_MASK.EVALUATION", value, "OUTPUT_DIR", str(tmp_path)]
    cfg = setup(Namespace(config_file=CONFIG, opts=opts, eval_only=eval_only))
    assert isinstance(Trainer.build_evaluator(cfg, "shapes_val"), evaluator)
    (sample, *_) = next(iter(Trainer.build_test_loader(cfg, "shapes_val")))
    assert ("kind" in sample) == (evaluator is PatchEvaluator)


def test_another_value_is_refused(tiny_overrides: list[str]) -> None:
    cfg = load_config(CONFIG, [*tiny_overrides, "MODEL.SHARP_MASK.EVALUATION", "boxes"])
    register_config_datasets(cfg)
    with pytest.raises(ConfigError, match=r"EVALUATION is 'boxes'.*auto, patches, proposals"):
        Trainer.build_test_loader(cfg, "shapes_val")


@pytest.mark.slow
def test_recall_on_real_images(
    repo: Path,
    shared: Path,
    tiny_overrides: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``--eval-only`` prints the table; the weights are random, so the figures mean nothing."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(shared / "data" / "coco_tiny"))
    weights = tmp_path / "random.pth"
    torch.save({"model": build_model(load_config(CONFIG, tiny_overrides)).state_dict()}, weights)
    opts = [*tiny_overrides, "DATASETS.TEST", "('coco_2017_val',)", "OUTPUT_DIR", "out"]
    opts += ["MODEL.WEIGHTS", str(weights), "MODEL.SHARP_MASK.PROPOSALS.NUM", "100"]
    done = subprocess.run(
        [sys.executable, str(repo / "train_net.py"), "--config-file", CONFIG, "--eval-only", *opts],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sharp masks of the best 100 windows at the scales 'default'" in done.stdout
    assert "coco_2017_val: 50 images" in done.stdout
    for kind in ("boxes", "masks"):
        for size in ("all", "small", "medium", "large"):
            pattern = rf"\| {kind}, {size} +\| +\d+ \|( +[\d.]+ \|){{5}}"
            assert re.search(pattern, done.stdout), done.stdout
    results = json.loads((tmp_path / "out" / "inference" / "proposal_recall.json").read_text())
    assert 0 < results["box_proposals"]["AR@100"] < 100
