import re
from pathlib import Path

import pytest
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.evaluation import DatasetEvaluator

from instseg_d2.checkpoint import LoadOptions
from instseg_d2.config import known_keys, load_config
from instseg_d2.data.config_datasets import register_config_datasets
from instseg_d2.data.training_order import sampler_builder
from instseg_d2.engine.averaging import check_averaging
from instseg_d2.engine.nonfinite import check_nonfinite
from instseg_d2.engine.resumed_evaluation import is_resumable
from instseg_d2.engine.run_report import log_schedule
from instseg_d2.engine.selection import check_selection
from instseg_d2.errors import ConfigError
from instseg_d2.families import config_value, model_families
from instseg_d2.inference import InferenceOptions
from instseg_d2.modeling import build_model, check_training
from instseg_d2.solver import build_lr_scheduler, build_optimizer


def test_file_then_overrides(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("SOLVER: {BASE_LR: 0.5, MAX_ITER: 7}\n")
    cfg = load_config(file, ["SOLVER.MAX_ITER", "9"])
    assert (cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER) == (0.5, 9)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("SOLVER.BASELR", "SOLVER.BASE_LR"),
        ("MODEL.SPARSE_INST.DECODER.NUM_MASK", "MODEL.SPARSE_INST.DECODER.NUM_MASKS"),
        ("MODEL.SPARSEINST.DECODER.GROUPS", "MODEL.SPARSE_INST"),
    ],
)
def test_unknown_keys_name_the_nearest(tmp_path: Path, key: str, nearest: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"did you mean {nearest}")):
        load_config("", [key, "1"])
    file = tmp_path / "a.yaml"
    parts = key.split(".")
    file.write_text("{" + ": {".join(parts) + ": 1" + "}" * len(parts))
    with pytest.raises(ConfigError, match=re.escape(f"did you mean {nearest}")) as info:
        load_config(file)
    assert str(file) in str(info.value)


def test_damaged_yaml_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("SOLVER: {BASE_LR: 0.5\n")
    with pytest.raises(ConfigError, match=re.escape(f"{file} is not valid YAML")):
        load_config(file)


@pytest.mark.parametrize("in_base", [False, True])
def test_a_yaml_runs_no_code(tmp_path: Path, in_base: bool) -> None:
    trap = tmp_path / "sprung"
    evil = tmp_path / "evil.yaml"
    evil.write_text(f"OUTPUT_DIR: !!python/object/apply:os.system ['touch {trap}']\n")
    file = evil
    if in_base:
        file = tmp_path / "a.yaml"
        file.write_text("_BASE_: evil.yaml\n")
    with pytest.raises(ConfigError, match=r"refused: .*os\.system"):
        load_config(file)
    assert not trap.exists()


def test_missing_base_names_it(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("_BASE_: nowhere.yaml\n")
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        load_config(file)


@pytest.mark.parametrize("text", ["[1, 2]", "just words", "", "3"])
def test_yaml_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(str(file))):
        load_config(file)


def test_wrong_type_and_odd_overrides() -> None:
    with pytest.raises(ConfigError, match=r"SOLVER\.BASE_LR"):
        load_config("", ["SOLVER.BASE_LR", "'fast'"])
    with pytest.raises(ConfigError, match="pairs"):
        load_config("", ["SOLVER.BASE_LR"])


def test_an_option_among_the_overrides_is_named() -> None:
    with pytest.raises(ConfigError, match="--train-json stands among the overrides"):
        load_config("", ["SOLVER.MAX_ITER", "1", "--train-json", "a.json"])


def reads_of(cfg: CfgNode, patch: pytest.MonkeyPatch) -> set[str]:
    """The keys that are read while everything that a config describes is built."""
    names = {id(cfg): ""}
    names |= {
        id(config_value(cfg, key)): f"{key}."
        for key in known_keys(cfg)
        if isinstance(config_value(cfg, key), CfgNode)
    }
    read = set()
    plain = CfgNode.__getattr__

    def recorded(node: CfgNode, name: str) -> object:
        read.add(f"{names.get(id(node), '?.')}{name}")
        return plain(node, name)

    patch.setattr(CfgNode, "__getattr__", recorded)
    check_training(cfg)
    check_averaging(cfg)
    check_selection(cfg)
    check_nonfinite(cfg)
    build_lr_scheduler(cfg, build_optimizer(cfg, build_model(cfg)))
    for family in model_families():
        family.build_mapper(cfg, True)
        family.reads_annotation_file(cfg)
    LoadOptions.from_config(cfg)
    InferenceOptions.from_config(cfg)
    register_config_datasets(cfg)
    log_schedule(cfg, 1)
    is_resumable(cfg, DatasetEvaluator())
    sampler_builder(cfg, [])
    return read


def test_every_own_key_is_read(tiny_overrides: list[str]) -> None:
    """A key that nothing reads is a promise that nothing keeps."""
    recipe = ["SOLVER.RECIPE.IMS_PER_BATCH", "2", "SOLVER.RECIPE.BASE_LR", "1.0"]
    own = set(known_keys(load_config())) - set(known_keys(get_detectron2_cfg()))
    unread = {key for key in own if not isinstance(config_value(load_config(), key), CfgNode)}
    for name in (
        "sparseinst/sparse_inst_r50_giam",
        "sparseinst/sparse_inst_darknet53_giam",
        "sparseinst/sparse_inst_pvt_b1_giam",
        "sharpmask/deepmask_vgg_a",
        "sharpmask/sharpmask_r50",
        "sharpmask/fast_rcnn_vgg16_sharpmask",
    ):
        with pytest.MonkeyPatch.context() as patch:
            unread -= reads_of(load_config(name, [*tiny_overrides, *recipe]), patch)
    assert not unread
