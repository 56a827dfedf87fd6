"""YAMLs as users of the authors' repository have them: any folder, their own ``_BASE_``."""

import json
from pathlib import Path

import pytest
import yaml

from instseg_d2.config import load_config
from instseg_d2.modeling import build_model

BASE = """
MODEL:
  META_ARCHITECTURE: "SparseInst"
  WEIGHTS: "pretrained_models/R-50.pkl"
  PIXEL_MEAN: [123.675, 116.280, 103.530]
  PIXEL_STD: [58.395, 57.120, 57.375]
  BACKBONE:
    FREEZE_AT: 0
    NAME: "build_resnet_backbone"
  RESNETS:
    DEPTH: 50
    NORM: "FrozenBN"
    STRIDE_IN_1X1: False
    OUT_FEATURES: ["res3", "res4", "res5"]
  MASK_ON: True
  SPARSE_INST:
    CLS_THRESHOLD: 0.005
    MASK_THRESHOLD: 0.45
    MAX_DETECTIONS: 100
    DATASET_MAPPER: "SparseInstDatasetMapper"
    ENCODER:
      NAME: "InstanceContextEncoder"
      NORM: ""
      IN_FEATURES: ["res3", "res4", "res5"]
      NUM_CHANNELS: 256
    DECODER:
      NAME: "GroupIAMDecoder"
      NUM_MASKS: 100
      NUM_CLASSES: 80
      KERNEL_DIM: 128
      SCALE_FACTOR: 2.0
      OUTPUT_IAM: False
      GROUPS: 4
      INST: {DIM: 256, CONVS: 4}
      MASK: {DIM: 256, CONVS: 4}
    LOSS:
      NAME: "SparseInstCriterion"
      ITEMS: ["labels", "masks"]
      CLASS_WEIGHT: 2.0
      MASK_PIXEL_WEIGHT: 5.0
      MASK_DICE_WEIGHT: 2.0
      OBJECTNESS_WEIGHT: 1.0
    MATCHER:
      NAME: "SparseInstMatcher"
      ALPHA: 0.8
      BETA: 0.2
DATASETS:
  TRAIN: ("coco_2017_train",)
  TEST: ("coco_2017_val",)
SOLVER:
  OPTIMIZER: "ADAMW"
  BACKBONE_MULTIPLIER: 1.0
  AMSGRAD: False
  IMS_PER_BATCH: 64
  BASE_LR: 0.00005
  STEPS: (210000, 250000)
  MAX_ITER: 270000
  WEIGHT_DECAY: 0.05
INPUT:
  MIN_SIZE_TRAIN: (416, 448, 480, 512, 544, 576, 608, 640)
  MAX_SIZE_TRAIN: 853
  MIN_SIZE_TEST: 640
  MAX_SIZE_TEST: 853
  FORMAT: "RGB"
  MASK_FORMAT: "bitmask"
TEST:
  EVAL_PERIOD: 7330
DATALOADER:
  NUM_WORKERS: 6
VERSION: 2
"""

DCN = {"RESNETS": {"DEFORM_ON_PER_STAGE": [False, False, True, True]}}
VD = {
    "BACKBONE": {"NAME": "build_resnet_vd_backbone"},
    "WEIGHTS": "pretrained_models/resnet50d_ra2-464e36ba.pth",
}
CROP = {"CROP": {"ENABLED": True, "TYPE": "absolute_range", "SIZE": [384, 600]}}


def decoder(name: str) -> dict:
    return {"SPARSE_INST": {"DECODER": {"NAME": name}}}


def csp(name: str, decoder_name: str) -> dict:
    features = ["csp2", "csp3", "csp4"]
    return {
        "BACKBONE": {"NAME": "build_cspnet_backbone"},
        "CSPNET": {"NAME": name, "NORM": "", "OUT_FEATURES": features},
        "SPARSE_INST": {
            "ENCODER": {"IN_FEATURES": features},
            "DECODER": {"NAME": decoder_name},
        },
    }


def pvt(name: str, linear: bool) -> dict:
    features = ["p2", "p3", "p4"]
    return {
        "BACKBONE": {"NAME": "build_pyramid_vision_transformer"},
        "PVT": {"NAME": name, "LINEAR": linear, "OUT_FEATURES": features},
        "SPARSE_INST": {"ENCODER": {"IN_FEATURES": features}},
    }


# File name -> (MODEL, INPUT), in addition to the base.
MODELS: dict[str, tuple[dict, dict]] = {
    "sparse_inst_r50_base": (decoder("BaseIAMDecoder"), {}),
    "sparse_inst_r50_giam": ({}, {}),
    "sparse_inst_r50_giam_fp16": ({}, {}),
    "sparse_inst_r50_giam_aug": ({}, CROP),
    "sparse_inst_r50_giam_soft": (decoder("GroupIAMSoftDecoder"), {}),
    "sparse_inst_r50_dcn_giam_aug": (DCN, CROP),
    "sparse_inst_r101_giam": ({"RESNETS": {"DEPTH": 101}}, {}),
    "sparse_inst_r101_dcn_giam": ({"RESNETS": {"DEPTH": 101, **DCN["RESNETS"]}}, {}),
    "sparse_inst_r50vd_base": ({**VD, **decoder("BaseIAMDecoder")}, {}),
    "sparse_inst_r50vd_giam": (VD, {}),
    "sparse_inst_r50vd_giam_aug": (VD, CROP),
    "sparse_inst_r50vd_dcn_giam": ({**VD, **DCN}, {}),
    "sparse_inst_r50vd_dcn_giam_aug": ({**VD, **DCN}, CROP),
    "sparse_inst_cspdarknet53_giam": (csp("cspdarknet53", "GroupIAMSoftDecoder"), {}),
    "sparse_inst_darknet53_giam": (csp("darknet53", "GroupIAMDecoder"), {}),
    "sparse_inst_pvt_b1_giam": (pvt("b1", False), {}),
    "sparse_inst_pvt_b2_li_giam": (pvt("b2", True), {}),
}


def written(folder: Path, name: str) -> Path:
    """Write the YAML and its base as siblings and return its path."""
    model, inputs = MODELS[name]
    (folder / "Base-SparseInst.yaml").write_text(BASE)
    content: dict = {"_BASE_": "Base-SparseInst.yaml", "OUTPUT_DIR": f"output/{name}"}
    if model:
        content["MODEL"] = model
    if inputs:
        content["INPUT"] = inputs
    if name.endswith("fp16"):
        content["SOLVER"] = {"AMP": {"ENABLED": True}}
    path = folder / f"my_{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("name", MODELS)
def test_loads_unmodified_and_means_the_same_as_ours(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, name)
    monkeypatch.chdir("/")
    theirs, ours = load_config(path), load_config(f"sparseinst/{name}")
    for cfg in (theirs, ours):
        cfg.MODEL.WEIGHTS = ""
        cfg.MODEL.SPARSE_INST.LOSS.ITEMS = tuple(cfg.MODEL.SPARSE_INST.LOSS.ITEMS)
    assert theirs == ours


def test_there_is_one_of_ours_for_each(repo: Path) -> None:
    ours = {path.stem for path in (repo / "configs" / "sparseinst").glob("*.yaml")}
    assert ours >= {"Base-SparseInst", *MODELS}


@pytest.mark.parametrize(
    "name",
    [
        "sparse_inst_r50_dcn_giam_aug",
        "sparse_inst_r50vd_dcn_giam",
        "sparse_inst_cspdarknet53_giam",
        "sparse_inst_pvt_b2_li_giam",
    ],
)
def test_builds(name: str, tmp_path: Path) -> None:
    cfg = load_config(written(tmp_path, name), ["MODEL.DEVICE", "cpu"])
    assert build_model(cfg).backbone.output_shape()


def test_a_full_dump_of_a_config_loads(tmp_path: Path) -> None:
    """What the authors' training writes beside its checkpoints: every key there is."""
    cfg = load_config(written(tmp_path, "sparse_inst_pvt_b1_giam"))
    for node, key in (  # keys that their code does not have
        (cfg.MODEL, "CHANNELS_LAST"),
        (cfg.MODEL, "LOADING"),
        (cfg.MODEL.PVT, "DROP_PATH_RATE"),
        (cfg.DATASETS, "SHAPES"),
        (cfg.SOLVER.AMP, "DTYPE"),
        (cfg.SOLVER, "STEP_FACTORS"),
        (cfg.MODEL, "SHARP_MASK"),
        (cfg.MODEL, "VGG"),
        (cfg.MODEL.SPARSE_INST, "SCORE_THRESHOLD"),
        (cfg.MODEL.SPARSE_INST.DECODER, "NORM"),
        (cfg.MODEL.SPARSE_INST.LOSS, "FOCAL_ALPHA"),
        (cfg.MODEL.SPARSE_INST.LOSS, "FOCAL_GAMMA"),
    ):
        node.pop(key, None)
    dump = tmp_path / "config.yaml"
    dump.write_text(cfg.dump())
    loaded = load_config(dump)
    assert loaded.MODEL.PVT.NAME == "b1"
    expected = load_config(written(tmp_path, "sparse_inst_pvt_b1_giam"))
    assert json.dumps(loaded) == json.dumps(expected)  # takes tuples and lists for the same
