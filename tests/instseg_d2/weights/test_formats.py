"""Names of public backbones, checked against the modules that timm and torchvision build."""

import json
from functools import cache
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_resnet_backbone

from instseg_d2.errors import WeightsError
from instseg_d2.weights.formats import (
    FORMATS,
    PVT_V2,
    TIMM_CSP_DARKNET,
    TIMM_DARKNET,
    TIMM_PVT_V2,
    TIMM_RESNET_D,
    TORCHVISION_RESNET,
    VGG_A,
    VGG_D,
    is_classifier,
    names_in_box_head,
    recognise,
    recognise_native,
    rename,
    to_native_names,
)

KNOWN = {
    "torchvision resnet18": TORCHVISION_RESNET,
    "torchvision resnet50": TORCHVISION_RESNET,
    "resnet34": TORCHVISION_RESNET,
    "resnet50": TORCHVISION_RESNET,
    "resnet101": TORCHVISION_RESNET,
    "resnext50_32x4d": TORCHVISION_RESNET,
    "resnet18d": TIMM_RESNET_D,
    "resnet50d": TIMM_RESNET_D,
    "resnet101d": TIMM_RESNET_D,
    "darknet53": TIMM_DARKNET,
    "cspdarknet53": TIMM_CSP_DARKNET,
    "pvt_v2_b0": TIMM_PVT_V2,
    "pvt_v2_b1": TIMM_PVT_V2,
    "pvt_v2_b2_li": TIMM_PVT_V2,
    "pvt_v2_b5": TIMM_PVT_V2,
    "torchvision vgg11": VGG_A,
    "torchvision vgg16": VGG_D,
}
SIMILAR_BUT_OTHER = [
    "resnet50c", "seresnet50", "ecaresnet50d", "res2net50_26w_4s", "resnetv2_50", "cspresnet50",
    "cs3darknet_m", "darknetaa53", "convnext_tiny", "swin_tiny_patch4_window7_224", "hrnet_w18",
    "torchvision vgg13", "torchvision vgg11_bn", "torchvision vgg19",
]  # fmt: skip
GOLDENS = {
    "r50_giam": "resnet50",
    "r101_giam": "resnet101",
    "r50vd_giam": "resnet50d",
    "darknet53_giam": "darknet53",
    "cspdarknet53_giam": "cspdarknet53",
    "pvt_b1_giam": "pvt_v2_b1",
    "pvt_b2_li_giam": "pvt_v2_b2_li",
}


@cache
def state_of(model: str) -> dict[str, torch.Tensor]:
    """Names and shapes of a real module; nothing is computed."""
    with torch.device("meta"):
        if model.startswith("torchvision "):
            return getattr(torchvision.models, model.split()[1])(weights=None).state_dict()
        return timm.create_model(model).state_dict()


def golden_shapes(shared: Path, name: str) -> dict[str, tuple[int, ...]]:
    content = json.loads((shared / "goldens" / "sparseinst" / f"{name}.json").read_text())
    return {name: tuple(shape) for name, shape in content["shapes"].items()}


# ------------------------------------------------------------------------------- recognition


@pytest.mark.parametrize("model", KNOWN)
def test_each_module_is_recognised_as_its_own_and_nothing_else(model):
    assert [form for form in FORMATS if form.recognises(state_of(model))] == [KNOWN[model]]
    assert recognise(state_of(model)) is KNOWN[model]


@pytest.mark.parametrize("model", KNOWN)
def test_files_without_classifier_or_batch_counts_are_recognised(model):
    names = [name for name in state_of(model) if not is_classifier(name)]
    assert len(names) < len(state_of(model))
    assert recognise(names) is KNOWN[model]
    assert recognise(n for n in names if not n.endswith("num_batches_tracked")) is KNOWN[model]


@pytest.mark.parametrize("model", SIMILAR_BUT_OTHER)
def test_modules_of_other_architectures_are_not_recognised(model):
    assert recognise(state_of(model)) is None
    assert recognise_native(state_of(model)) == ()


@pytest.mark.parametrize("model", KNOWN)
def test_a_foreign_name_or_a_prefix_or_a_lost_stem_prevents_recognition(model):
    names = list(state_of(model))
    assert recognise([*names, "decoder.weight"]) is None
    assert recognise(f"backbone.{name}" for name in names) is None
    assert recognise(name for name in names if name not in KNOWN[model].required) is None


def test_nothing_is_not_recognised():
    assert recognise([]) is None
    assert recognise(["fc.weight", "fc.bias"]) is None
    assert to_native_names({}) == ({}, None)


def detectron2_resnet(depth: int, norm: str = "FrozenBN") -> torch.nn.Module:
    cfg = get_cfg()
    cfg.MODEL.RESNETS.DEPTH = depth
    cfg.MODEL.RESNETS.NORM = norm
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    if depth < 50:
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    with torch.device("meta"):
        return build_resnet_backbone(cfg, ShapeSpec(channels=3))


def test_a_detectron2_resnet_is_native_and_not_public():
    state = detectron2_resnet(50).state_dict()
    assert to_native_names(state)[0] is state
    assert recognise(state) is None
    assert recognise_native(state) == (TORCHVISION_RESNET,)


@pytest.mark.parametrize("name", [*GOLDENS, "r50_dcn_giam", "r50vd_dcn_giam"])
def test_a_whole_sparseinst_is_left_alone(shared, name):
    state = {name: torch.empty(()) for name in golden_shapes(shared, name)}
    renamed, form = to_native_names(state)
    assert form is None
    assert renamed is state


# ------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("model", KNOWN)
def test_there_and_back_gives_the_same_names(model):
    form = KNOWN[model]
    native, name = to_native_names(state_of(model))
    assert name == form.name
    assert type(native) is dict  # without PyTorch's version notes, which are for the old names
    assert form in recognise_native(native)
    back = rename(native, form.from_native)
    assert list(back) == list(state_of(model))
    assert all(back[name] is value for name, value in state_of(model).items())


@pytest.mark.parametrize(("golden", "model"), GOLDENS.items())
def test_native_names_and_shapes_are_those_of_the_published_models(shared, golden, model):
    expected = {
        name.removeprefix("backbone."): shape
        for name, shape in golden_shapes(shared, golden).items()
        if name.startswith("backbone.")
    }
    counted = any(name.endswith("num_batches_tracked") for name in expected)
    native, _ = to_native_names(state_of(model))
    assert {
        name: tuple(value.shape)
        for name, value in native.items()
        if not is_classifier(name) and (counted or not name.endswith("num_batches_tracked"))
    } == expected


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_torchvision_resnets_become_detectron2s(depth):
    native, _ = to_native_names(state_of(f"resnet{depth}"))
    ours = {name: value.shape for name, value in native.items() if not is_classifier(name)}
    theirs = detectron2_resnet(depth, norm="BN").state_dict()
    assert ours == {name: value.shape for name, value in theirs.items()}


@pytest.mark.parametrize("name", ["r50_dcn_giam", "r50vd_dcn_giam"])
def test_backbones_with_deformable_convolutions_go_there_and_back(shared, name):
    shapes = golden_shapes(shared, name)
    native = [n.removeprefix("backbone.") for n in shapes if n.startswith("backbone.")]
    (form,) = recognise_native(native)
    public = [form.from_native(name) for name in native]
    assert recognise(public) is form
    assert [form.to_native(name) for name in public] == native


def test_the_files_of_pvts_authors_are_recognised_and_keep_their_names():
    authors, _ = to_native_names(state_of("pvt_v2_b1"))
    assert "head.weight" in authors
    same, name = to_native_names(authors)
    assert name == PVT_V2.name
    assert list(same) == list(authors)
    assert recognise_native(authors) == (TIMM_PVT_V2, PVT_V2)


def test_the_classifier_keeps_its_names():
    native, _ = to_native_names(state_of("resnet50"))
    assert [name for name in native if is_classifier(name)] == ["fc.weight", "fc.bias"]
    native, _ = to_native_names(state_of("darknet53"))
    assert [name for name in native if is_classifier(name)] == ["head.fc.weight", "head.fc.bias"]


@pytest.mark.parametrize("model", KNOWN)
def test_only_vggs_classifier_has_layers_for_a_box_head(model):
    native, _ = to_native_names(state_of(model))
    expected = {
        f"classifier.{layer}.{name}": f"roi_heads.box_head.fc{number}.{name}"
        for number, layer in ((1, 0), (2, 3))
        for name in ("weight", "bias")
    }
    assert names_in_box_head(native) == (expected if "vgg" in model else {})
    without = [name for name in native if not is_classifier(name)]
    assert names_in_box_head(without) == {}
    assert names_in_box_head([*native, "decoder.weight"]) == {}


@pytest.mark.parametrize("prefix", ["stem.fc.", "linear."])
def test_detectron2s_names_of_a_classifier_become_public(prefix):
    assert TORCHVISION_RESNET.from_native(f"{prefix}weight") == "fc.weight"


# ------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("name", ["layer5.0.conv1.weight", "layer1.0.conv4.weight", "conv1", ""])
def test_names_outside_a_format_are_errors(name):
    with pytest.raises(WeightsError, match=f"'{name}' is no name in a torchvision ResNet"):
        TORCHVISION_RESNET.to_native(name)
    with pytest.raises(WeightsError, match="is no native name"):
        TORCHVISION_RESNET.from_native(name)


def test_two_tensors_never_get_one_name():
    state = {"stem.fc.weight": torch.ones(1), "fc.weight": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"'stem\.fc\.weight' and 'fc\.weight'.*'fc\.weight'"):
        rename(state, TORCHVISION_RESNET.from_native)
