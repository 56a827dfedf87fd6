"""Evaluations that are ended at some image, and go on with the others."""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from torch import nn

from instseg_d2.coco_evaluator import FastCOCOEvaluator
from instseg_d2.config import load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.engine.resumed_evaluation import evaluate_resumably
from instseg_d2.errors import DataError, user_message
from instseg_d2.modeling import build_model
from tests.training_runs import FIND_SOMETHING, RESULTS

NUM = 6
PART = Path("inference") / "shapes_val.rank0.part"


@pytest.fixture
def cfg(tiny_overrides: list[str], tmp_path: Path) -> CfgNode:
    own = ["DATASETS.SHAPES.SEED", "8", "OUTPUT_DIR", str(tmp_path / "out")]  # images of its own
    cfg = load_config("sparseinst/sparse_inst_r50_giam", [*tiny_overrides, *FIND_SOMETHING, *own])
    register_config_datasets(cfg)
    return cfg


@pytest.fixture
def model(cfg: CfgNode) -> nn.Module:
    model = build_model(cfg).eval()
    for name, parameter in model.decoder.inst_branch.named_parameters():
        if name.startswith(("iam_conv", "mask_kernel", "cls_score", "objectness")):
            nn.init.normal_(parameter, std=0.2 if name.startswith("iam_conv") else 1.0)
    return model


@pytest.fixture
def undisturbed(cfg: CfgNode, model: nn.Module, tmp_path: Path) -> tuple[bytes, dict[str, Any]]:
    """The results file, and the figures."""
    other = cfg.clone()
    other.OUTPUT_DIR = str(tmp_path / "undisturbed")
    figures = evaluate_resumably(other, model)
    return (tmp_path / "undisturbed" / RESULTS).read_bytes(), figures


def results_of(cfg: CfgNode) -> bytes:
    return (Path(cfg.OUTPUT_DIR) / RESULTS).read_bytes()


def evaluate_until(cfg: CfgNode, model: nn.Module, stop: int) -> None:
    """Ctrl-C is pressed at that image, counted from 0."""
    images = iter(range(NUM))

    def count(*_: Any) -> None:
        if next(images) == stop:
            raise KeyboardInterrupt

    with model.register_forward_pre_hook(count), pytest.raises(KeyboardInterrupt):
        evaluate_resumably(cfg, model)


def evaluate_counting(cfg: CfgNode, model: nn.Module) -> tuple[int, dict[str, Any]]:
    """How many images were predicted, and the figures."""
    seen: list[Any] = []
    with model.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0])):
        figures = evaluate_resumably(cfg, model)
    return len(seen), figures


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """NaN is the same as NaN."""
    return json.dumps(first) == json.dumps(second)


@pytest.mark.parametrize("stop", [1, 4])
def test_an_evaluation_goes_on_where_it_was_ended(
    cfg: CfgNode,
    model: nn.Module,
    undisturbed: tuple[bytes, dict[str, Any]],
    stop: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        evaluate_until(cfg, model, stop)
        assert f"{stop} predictions are noted in" in caplog.text
        assert not (Path(cfg.OUTPUT_DIR) / RESULTS).exists()
        count, figures = evaluate_counting(cfg, model)
    assert count == NUM - stop
    assert f"predicted {stop} of the {NUM} images" in caplog.text
    assert len(json.loads(results_of(cfg))) > NUM
    assert results_of(cfg) == undisturbed[0]
    assert same(figures, undisturbed[1])
    assert not (Path(cfg.OUTPUT_DIR) / PART).exists()
    assert evaluate_counting(cfg, model)[0] == NUM, "what was finished is done again"


def test_an_evaluation_that_fails_at_its_end_needs_no_second_prediction(
    cfg: CfgNode,
    model: nn.Module,
    undisturbed: tuple[bytes, dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(FastCOCOEvaluator, "evaluate", fail)
        with pytest.raises(OSError, match="No space"):
            evaluate_resumably(cfg, model)
    count, figures = evaluate_counting(cfg, model)
    assert count == 0
    assert results_of(cfg) == undisturbed[0]
    assert same(figures, undisturbed[1])


def test_predictions_of_several_processes_are_put_together(
    cfg: CfgNode, model: nn.Module, undisturbed: tuple[bytes, dict[str, Any]]
) -> None:
    """Of which there were more in the earlier run; the second had the last images."""
    evaluate_until(cfg, model, 5)
    part = Path(cfg.OUTPUT_DIR) / PART
    head, *lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(head + lines[0] + lines[1][:-9])
    part.with_name("shapes_val.rank3.part").write_bytes(head + lines[4] + lines[3])
    assert evaluate_counting(cfg, model)[0] == NUM - 3
    assert results_of(cfg) == undisturbed[0]
    assert list(part.parent.glob("*.part")) == []


def change_weights(cfg: CfgNode, model: nn.Module) -> None:
    with torch.no_grad():
        model.decoder.inst_branch.objectness.bias.add_(0.5)


def change_config(cfg: CfgNode, model: nn.Module) -> None:
    cfg.INPUT.FORMAT = "BGR"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_weights, "digest of the weights"),
        (change_config, "INPUT.FORMAT: 'RGB' and 'BGR'"),
    ],
)
def test_nothing_of_another_run_counts(
    cfg: CfgNode, model: nn.Module, change: Any, named: str, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate_until(cfg, model, 4)
    change(cfg, model)
    with caplog.at_level(logging.WARNING):
        assert evaluate_counting(cfg, model)[0] == NUM
    assert named in caplog.text
    found = results_of(cfg)
    cfg.TEST.RESUME_INFERENCE = False
    evaluate_until(cfg, model, 4)
    assert not list((Path(cfg.OUTPUT_DIR) / "inference").glob("*.part"))
    assert evaluate_counting(cfg, model)[0] == NUM
    assert results_of(cfg) == found


@pytest.fixture
def broken_image(cfg: CfgNode) -> Iterator[tuple[Path, bytes]]:
    """The fourth, and what was in it; afterwards it is there again."""
    path = Path(DatasetCatalog.get("shapes_val")[3]["file_name"])
    content = path.read_bytes()
    path.write_bytes(content[:100])
    yield path, content
    path.write_bytes(content)


def test_an_image_that_cannot_be_read_is_named_and_nothing_is_lost(
    cfg: CfgNode,
    model: nn.Module,
    broken_image: tuple[Path, bytes],
) -> None:
    path, content = broken_image
    cfg.DATALOADER.NUM_WORKERS = 2
    with pytest.raises(DataError) as caught:
        evaluate_resumably(cfg, model)
    message = user_message(caught.value)
    assert message.startswith(f"image {path} (image id 4) cannot be read")
    assert "Traceback" not in message
    lines = (Path(cfg.OUTPUT_DIR) / PART).read_bytes().splitlines()
    assert [json.loads(line)[0] for line in lines[1:]] == [1, 2, 3]
    path.write_bytes(content)
    os.utime(DatasetCatalog.get("shapes_val")[1]["file_name"], (1, 1))
    assert evaluate_counting(cfg, model)[0] == NUM - 2, "nor does an image count that has changed"
