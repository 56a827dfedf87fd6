import logging

import pytest
import timm
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from torch import nn

from instseg_d2.checkpoint import InstSegCheckpointer
from instseg_d2.config import load_config
from instseg_d2.errors import WeightsError
from instseg_d2.modeling import build_model
from instseg_d2.weights.file_writing import write_weights_file
from instseg_d2.weights.matching import match_names

OPTIONS = {"heuristics": False, "caffe2": False, "backbone": "backbone"}


def test_exact_names_win_over_the_backbone_prefix():
    model = {"a.w": torch.zeros(1), "backbone.a.w": torch.zeros(1)}
    assert list(match_names({"a.w": torch.ones(1)}, model, **OPTIONS)) == ["a.w"]
    assert list(match_names({"b.w": torch.ones(1)}, model, **OPTIONS)) == ["b.w"]
    assert match_names({}, model, **OPTIONS) == {}


def test_one_name_in_common_does_not_hide_a_backbone():
    model = {name: torch.zeros(1) for name in ("fc.w", "backbone.a.w", "backbone.b.w")}
    file = {name: torch.ones(1) for name in ("fc.w", "a.w", "b.w")}
    names = list(match_names(file, model, **OPTIONS))
    assert names == ["backbone.fc.w", "backbone.a.w", "backbone.b.w"]


class WithBackbone(nn.Module):
    """Detectron2's ResNet-50 beside another module."""

    def __init__(self):
        super().__init__()
        cfg = get_cfg()
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
        cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
        self.backbone = build_backbone(cfg)
        self.head = nn.Linear(2, 2)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_torchvision_file_fills_the_backbone_of_detectron2(tmp_path, caplog, prefix):
    caplog.set_level(logging.INFO)
    state = torchvision.models.resnet50(weights=None).state_dict()
    path = tmp_path / "resnet50.pth"
    torch.save({prefix + name: value for name, value in state.items()}, path)
    model = WithBackbone()
    checkpointer = InstSegCheckpointer(model)
    checkpointer.load(str(path))
    ours = {f"backbone.{name}" for name in model.backbone.state_dict()}
    report = checkpointer.report
    assert report is not None
    assert set(report.matched) == ours
    assert report.missing == ["head.weight", "head.bias"]
    assert report.unexpected == ["backbone.fc.weight", "backbone.fc.bias"]
    assert report.misshaped == []
    block = model.backbone.res3[0]
    assert torch.equal(block.shortcut.weight, state["layer2.0.downsample.0.weight"])
    assert torch.equal(block.conv2.norm.running_var, state["layer2.0.bn2.running_var"])
    assert "names of a torchvision ResNet" in caplog.text


def test_torchvision_file_fills_the_trunk_of_a_feature_pyramid(tmp_path):
    state = torchvision.models.resnet50(weights=None).state_dict()
    torch.save(state, tmp_path / "resnet50.pth")
    config = "sharpmask/fast_rcnn_r50_fpn_sharpmask"
    model = build_model(load_config(config, ["MODEL.DEVICE", "cpu"]))
    checkpointer = InstSegCheckpointer(model)
    checkpointer.load(str(tmp_path / "resnet50.pth"))
    report = checkpointer.report
    assert report is not None
    assert not [name for name in report.missing if name.startswith("backbone.bottom_up.")]
    assert {name.split(".")[-2] for name in report.unexpected} == {"fc"}
    shortcut = model.backbone.bottom_up.res3[0].shortcut
    assert torch.equal(shortcut.weight, state["layer2.0.downsample.0.weight"])


def test_file_of_another_depth_is_said_to_lack_tensors(tmp_path):
    """The names of ResNet-18 are some of those of ResNet-50, the shapes are not."""
    path = str(tmp_path / "resnet18.pth")
    write_weights_file(path, torchvision.models.resnet18(weights=None).state_dict())
    with pytest.raises(WeightsError, match=r"of 'backbone', .* were found in it"):
        InstSegCheckpointer(WithBackbone()).load(path)


@pytest.mark.parametrize(
    ("config", "timm_model", "name"),
    [
        ("r50vd_base", "resnet50d", "layer4.2.conv3.weight"),
        ("cspdarknet53_giam", "cspdarknet53", "stages.4.conv_transition.conv.weight"),
        ("darknet53_giam", "darknet53", "stages.4.blocks.3.conv2.conv.weight"),
        ("pvt_b1_giam", "pvt_v2_b1", "stages.3.blocks.1.mlp.fc2.weight"),
    ],
)
def test_timm_file_fills_the_backbone(tmp_path, config, timm_model, name):
    cfg = load_config(f"sparseinst/sparse_inst_{config}", ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg)
    state = timm.create_model(timm_model).state_dict()
    path = str(tmp_path / "weights.safetensors")
    write_weights_file(path, state)
    checkpointer = InstSegCheckpointer(model)
    checkpointer.load(path)
    report = checkpointer.report
    assert report is not None
    assert not [missing for missing in report.missing if missing.startswith("backbone.")]
    assert report.misshaped == []
    assert any(torch.equal(state[name], ours) for ours in model.backbone.state_dict().values())


def test_an_imagenet_file_is_translated_before_its_ends_are_matched():
    model = {"backbone.stem.conv1.weight": torch.zeros(64, 3, 7, 7)}
    model["backbone.res2.0.conv1.weight"] = torch.zeros(64, 64, 1, 1)
    resnet = torchvision.models.resnet50(weights=None).state_dict()
    matched = match_names(resnet, model, heuristics=True, caffe2=False, backbone="backbone")
    for ours, theirs in (("stem.conv1", "conv1"), ("res2.0.conv1", "layer1.0.conv1")):
        assert torch.equal(matched[f"backbone.{ours}.weight"], resnet[f"{theirs}.weight"])
