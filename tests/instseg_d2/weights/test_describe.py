"""What is said of a model, for the shapes of real ones."""

import json

import pytest
import timm
import torch
import torchvision

from instseg_d2.weights.describe import describe_weights
from instseg_d2.weights.formats import to_native_names

GOLDENS = {
    "r50_base": "SparseInst, ResNet-50, base decoder, 80 classes, 100 masks",
    "r101_dcn_giam": "SparseInst, ResNet-101 with deformable convolutions, G-IAM, 80 classes, "
    "100 masks",
    "r50_giam_soft": "SparseInst, ResNet-50, G-IAM with softmax, 80 classes, 100 masks",
    "r50vd_giam": "SparseInst, ResNet-50-vd, G-IAM, 80 classes, 100 masks",
    "darknet53_giam": "SparseInst, Darknet53, G-IAM, 80 classes, 100 masks",
    "pvt_b2_li_giam": "SparseInst, PVTv2-B2-li, G-IAM, 80 classes, 100 masks",
}
BACKBONES = {
    "resnet34": "ResNet-34",
    "resnet152": "ResNet-152",
    "resnext50_32x4d": "ResNeXt-50",
    "resnet18d": "ResNet-18-vd",
    "cspdarknet53": "CSPDarknet53",
    "pvt_v2_b0": "PVTv2-B0",
    "pvt_v2_b1": "PVTv2-B1",
    "pvt_v2_b2": "PVTv2-B2",
    "pvt_v2_b5": "PVTv2-B5",
}


def golden_state(shared, name):
    content = json.loads((shared / "goldens" / "sparseinst" / f"{name}.json").read_text())
    return {n: torch.empty(shape, device="meta") for n, shape in content["shapes"].items()}


@pytest.mark.parametrize(("name", "expected"), GOLDENS.items())
def test_whole_models(shared, name, expected):
    assert describe_weights(golden_state(shared, name)) == expected


def test_classes_and_masks_are_counted(shared):
    state = golden_state(shared, "r50_giam")
    branch = "decoder.inst_branch"
    state[f"{branch}.cls_score.weight"] = torch.empty(6, 512, device="meta")  # 128 wide, 4 groups
    state[f"{branch}.iam_conv.weight"] = torch.empty(4 * 30, 32, 3, 3, device="meta")
    assert describe_weights(state) == "SparseInst, ResNet-50, G-IAM, 6 classes, 30 masks"


@pytest.mark.parametrize(("model", "expected"), BACKBONES.items())
def test_backbones(model, expected):
    with torch.device("meta"):
        state = timm.create_model(model, num_classes=7).state_dict()
    native, _ = to_native_names(state)
    assert describe_weights(native) == f"{expected} with a classifier of 7 classes"


@pytest.mark.parametrize("depth", [11, 16])
def test_vggs_classes_are_those_of_its_last_layer(depth):
    with torch.device("meta"):
        state = torchvision.models.get_model(f"vgg{depth}", num_classes=7).state_dict()
    native, _ = to_native_names(state)
    assert describe_weights(native) == f"VGG-{depth} with a classifier of 7 classes"


def test_other_backbones_are_described_by_their_blocks():
    with torch.device("meta"):
        state = timm.create_model("resnet26", num_classes=0).state_dict()
    native, _ = to_native_names(state)
    assert describe_weights(native) == "ResNet, blocks (2, 2, 2, 2)"


def test_other_models_are_described_by_their_parts(shared):
    state = golden_state(shared, "r50_base")
    known = {name: value for name, value in state.items() if name.startswith("backbone.")}
    assert describe_weights({**known, "roi_heads.w": torch.ones(1)}) == (
        "ResNet-50 and other parts (backbone, roi_heads)"
    )
    many = {f"part{number}.w": torch.ones(1) for number in range(9)}
    assert describe_weights(many).endswith("part7, ...")
    assert describe_weights({}) == "unknown, of parts "


@pytest.mark.parametrize("shape", [(), (0,), (0, 0, 0, 0)])
def test_odd_shapes_do_no_harm(shared, shape):
    for name in ("r50_giam", "r50vd_giam", "pvt_b1_giam", "cspdarknet53_giam"):
        state = {n: torch.empty(shape) for n in golden_state(shared, name)}
        assert describe_weights(state).startswith("SparseInst, ")
