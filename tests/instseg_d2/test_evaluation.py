from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, Instances

from instseg_d2.config import get_cfg
from instseg_d2.data.shapes import ShapesSpec
from instseg_d2.data.shapes_dataset import register_shapes
from instseg_d2.errors import ConfigError
from instseg_d2.evaluation import build_evaluator


def cfg_for(folder: Path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder)
    return cfg


def test_coco_data_is_evaluated_in_boxes_and_masks_even_if_nothing_is_found(
    tmp_path: Path,
) -> None:
    _, val = register_shapes(ShapesSpec(num_train=1, num_val=3, image_size=64))
    evaluator = build_evaluator(cfg_for(tmp_path), val)
    evaluator.reset()
    for record in DatasetCatalog.get(val):
        nothing = Instances((record["height"], record["width"]))
        nothing.pred_boxes = Boxes(torch.zeros(0, 4))
        nothing.scores, nothing.pred_classes = torch.zeros(0), torch.zeros(0, dtype=torch.int64)
        nothing.pred_masks = torch.zeros(0, *nothing.image_size, dtype=torch.bool)
        evaluator.process([record], [{"instances": nothing}])
    assert set(evaluator.evaluate()) == {"bbox", "segm"}
    assert (tmp_path / "inference" / "coco_instances_results.json").read_text() == "[]"


@pytest.mark.parametrize(
    ("settings", "tasks"),
    [
        ({"META_ARCHITECTURE": "SparseInst"}, ("bbox", "segm")),
        ({"META_ARCHITECTURE": "GeneralizedRCNN", "MASK_ON": True}, ("bbox", "segm")),
        ({"META_ARCHITECTURE": "GeneralizedRCNN", "MASK_ON": False}, ("bbox",)),
    ],
)
def test_lvis_is_evaluated_in_masks_if_the_model_has_any(
    tmp_path: Path,
    settings: dict[str, Any],
    tasks: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    MetadataCatalog.get("data_lvis").evaluator_type = "lvis"
    monkeypatch.setattr(
        "instseg_d2.evaluation.FastLVISEvaluator", lambda name, folder, **options: options
    )
    cfg = cfg_for(tmp_path)
    cfg.MODEL.merge_from_list([part for pair in settings.items() for part in pair])
    assert build_evaluator(cfg, "data_lvis")["tasks"] == tasks


@pytest.mark.parametrize("kind", [None, "speech"])
def test_unknown_evaluator_types_are_explained(tmp_path: Path, kind: str | None) -> None:
    name = f"evaluated_as_{kind}"
    if kind:
        MetadataCatalog.get(name).evaluator_type = kind
    with pytest.raises(ConfigError, match=name):
        build_evaluator(cfg_for(tmp_path), name)


@pytest.mark.parametrize(
    ("kind", "package"),
    [("lvis", "faster-coco-eval"), ("cityscapes_instance", "cityscapesscripts")],
)
def test_a_missing_package_is_named(
    tmp_path: Path, kind: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    MetadataCatalog.get(f"data_{kind}").evaluator_type = kind
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        build_evaluator(cfg_for(tmp_path), f"data_{kind}")
