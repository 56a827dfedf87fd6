"""What every backbone on timm's modules promises, and what is special to each."""

from collections.abc import Callable

import pytest
import timm
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from instseg_d2.config import load_config
from instseg_d2.errors import ConfigError
from instseg_d2.layers.deform_conv import DeformConv
from instseg_d2.modeling import build_model
from sparseinst_d2.backbones import CSPDarkNet, PyramidVisionTransformer, ResNetVD

BACKBONES = {
    "resnet50d": ResNetVD,
    "cspdarknet53": lambda **options: CSPDarkNet(name="cspdarknet53", **options),
    "darknet53": lambda **options: CSPDarkNet(name="darknet53", **options),
    "pvt_v2_b0": lambda **options: PyramidVisionTransformer(name="b0", **options),
    "pvt_v2_b2_li": lambda **options: PyramidVisionTransformer(name="b2", linear=True, **options),
}
WITH_BATCH_NORM = list(BACKBONES)[:3]

every_backbone = pytest.mark.parametrize("name", BACKBONES)


@every_backbone
def test_features_have_the_promised_shapes(name: str) -> None:
    backbone = BACKBONES[name]().eval()
    assert backbone.size_divisibility == 32
    shapes = backbone.output_shape()
    with torch.no_grad():
        outputs = backbone(torch.randn(1, 3, 64, 96))
    assert list(outputs) == list(shapes)
    assert [spec.stride for spec in shapes.values()] == [8, 16, 32]
    for key, spec in shapes.items():
        assert outputs[key].shape == (1, spec.channels, 64 // spec.stride, 96 // spec.stride)


@every_backbone
def test_features_equal_timms(name: str) -> None:
    """Taking timm's network apart and naming its parts anew changes nothing."""
    backbone = BACKBONES[name]().eval()
    net = timm.create_model(name, features_only=True, out_indices=(-3, -2, -1)).eval()
    # Same order of parameters, other names.
    ours = [value for key, value in backbone.state_dict().items() if "num_batches" not in key]
    theirs = net.state_dict()
    keys = [key for key in theirs if "num_batches" not in key]
    assert [value.shape for value in ours] == [theirs[key].shape for key in keys]
    net.load_state_dict(dict(zip(keys, ours, strict=True)), strict=False)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for actual, expected in zip(backbone(x).values(), net(x), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def parts_of(name: str) -> list[tuple[str, ...]]:
    """Beginnings of names that ``FREEZE_AT`` 1, 2, 3 ... freeze."""
    if name == "resnet50d":
        return [("conv1.", "bn1."), *((f"layer{index}.",) for index in range(1, 5))]
    if "darknet" in name:
        return [("stem.",), *((f"stages.{index}.",) for index in range(5))]
    stages = ((f"patch_embed{i}.", f"block{i}.", f"norm{i}.") for i in range(1, 5))
    return [("patch_embed1.",), *stages]


@every_backbone
@pytest.mark.parametrize("freeze_at", [0, 1, 3, 5])
def test_freezing_keeps_the_first_stages(name: str, freeze_at: int) -> None:
    options = {"norm": "BN"} if name in WITH_BATCH_NORM else {"drop_path_rate": 0.0}
    backbone = BACKBONES[name](freeze_at=freeze_at, **options).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    trainable = [value for value in backbone.parameters() if value.requires_grad]
    outputs = backbone(torch.randn(2, 3, 64, 64))
    if trainable:
        sum(value.square().mean() for value in outputs.values()).backward()
        torch.optim.SGD(trainable, lr=10.0).step()
    changed = {
        key for key, value in backbone.state_dict().items() if not torch.equal(value, before[key])
    }
    parts = parts_of(name)
    frozen = sum(parts[:freeze_at], ())
    assert not [key for key in changed if key.startswith(frozen)]
    for part in parts[max(freeze_at, 1) :]:
        assert any(key.startswith(part) for key in changed), part


@pytest.mark.parametrize("name", WITH_BATCH_NORM)
@pytest.mark.parametrize("norm", ["", "BN", "FrozenBN", "SyncBN"])
def test_norms_differ_in_kind_only(name: str, norm: str) -> None:
    plain = BACKBONES[name](norm="BN").eval()
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    other = BACKBONES[name](norm=norm).eval()
    result = other.load_state_dict(plain.state_dict(), strict=False)
    assert not [key for key in result.missing_keys if "num_batches" not in key]
    assert not [key for key in result.unexpected_keys if "num_batches" not in key]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for actual, expected in zip(other(x).values(), plain(x).values(), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    kinds = {type(module) for module in other.modules() if "BatchNorm" in type(module).__name__}
    wanted = {"FrozenBN": FrozenBatchNorm2d, "SyncBN": nn.SyncBatchNorm}
    assert all(issubclass(kind, wanted.get(norm, nn.BatchNorm2d)) for kind in kinds)
    trainable = [key for key, _ in other.named_parameters() if "bn" in key]
    assert bool(trainable) == (norm != "FrozenBN")


@pytest.mark.parametrize("name", WITH_BATCH_NORM)
@pytest.mark.parametrize("norm", ["BN", "FrozenBN", "SyncBN"])
def test_freezing_does_not_change_the_function(name: str, norm: str) -> None:
    torch.manual_seed(0)
    free = BACKBONES[name](norm=norm).eval()
    frozen = BACKBONES[name](norm=norm, freeze_at=3).eval()
    result = frozen.load_state_dict(free.state_dict(), strict=False)
    assert not [key for key in result.missing_keys if "num_batches" not in key]
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for actual, expected in zip(frozen(x).values(), free(x).values(), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_only_the_wanted_stages_are_deformable() -> None:
    backbone = ResNetVD(deform_on_per_stage=(False, False, True, True))
    deformable = [key for key, child in backbone.named_modules() if isinstance(child, DeformConv)]
    assert deformable == [
        f"layer{stage}.{block}.conv2" for stage, n in ((3, 6), (4, 3)) for block in range(n)
    ]
    assert backbone.layer3[0].conv2_offset.weight.shape == (18, 256, 3, 3)
    assert backbone.layer3[0].conv2.bias is None


@pytest.mark.parametrize("modulated", [False, True])
def test_new_deformable_blocks_compute_what_regular_ones_do(modulated: bool) -> None:
    plain = ResNetVD(width_per_group=4).eval()
    deformable = ResNetVD(
        width_per_group=4,
        deform_on_per_stage=(False, True, True, True),
        deform_modulated=modulated,
        deform_num_groups=2,
    ).eval()
    result = deformable.load_state_dict(plain.state_dict(), strict=False)
    assert all("conv2_offset" in key for key in result.missing_keys)
    if modulated:  # its modulation starts at sigmoid(0)
        for module in deformable.modules():
            if isinstance(module, DeformConv):
                module.weight.data *= 2
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        for actual, expected in zip(deformable(x).values(), plain(x).values(), strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def test_dilation_keeps_the_stride_of_res4() -> None:
    backbone = ResNetVD(width_per_group=4, res5_dilation=2).eval()
    assert backbone.output_shape()["res5"].stride == 16
    with torch.no_grad():
        assert backbone(torch.randn(1, 3, 64, 64))["res5"].shape[-2:] == (4, 4)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: ResNetVD(depth=51), r"MODEL\.RESNETS\.DEPTH is 51"),
        (lambda: ResNetVD(norm="GN"), r"MODEL\.RESNETS\.NORM is 'GN'"),
        (lambda: ResNetVD(out_features=["res6"]), r"OUT_FEATURES is \['res6'\].*res5"),
        (lambda: ResNetVD(out_features=[]), r"OUT_FEATURES is \[\]"),
        (lambda: ResNetVD(depth=18, deform_on_per_stage=[True] * 4), "needs bottlenecks"),
        (lambda: ResNetVD(deform_on_per_stage=[True]), "four entries"),
        (lambda: ResNetVD(res5_dilation=3), "RES5_DILATION is 3"),
        (lambda: ResNetVD(depth=18, num_groups=2), r"NUM_GROUPS.*needs bottlenecks"),
        (
            lambda: ResNetVD(deform_on_per_stage=[True] * 4, deform_num_groups=3),
            r"DEFORM_NUM_GROUPS is 3",
        ),
        (lambda: ResNetVD(freeze_at=-1), r"FREEZE_AT is -1"),
        (lambda: CSPDarkNet(freeze_at=7), r"FREEZE_AT is 7; .* 0 to 6"),
        (lambda: PyramidVisionTransformer(freeze_at=6), r"FREEZE_AT is 6; .* 0 to 5"),
        (lambda: CSPDarkNet(name="darknet19"), "cspdarknet53, darknet53"),
        (lambda: CSPDarkNet(norm="LN"), r"MODEL\.CSPNET\.NORM is 'LN'"),
        (lambda: PyramidVisionTransformer(name="b6"), r"MODEL\.PVT\.NAME is 'b6'"),
        (lambda: PyramidVisionTransformer(name="b1", linear=True), "LINEAR True; here are b2"),
    ],
)
def test_impossible_settings_name_the_key(build: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build()


def test_stochastic_depth_is_for_training_only() -> None:
    backbone = PyramidVisionTransformer(name="b0", drop_path_rate=0.9)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        first, second = (backbone.train()(x)["p4"] for _ in range(2))
        assert not torch.equal(first, second)
        first, second = (backbone.eval()(x)["p4"] for _ in range(2))
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("name", "linear"), [("b2", True), ("b2_li", False), ("pvt_v2_b2_li", True)]
)
def test_the_linear_variant_has_several_names(name: str, linear: bool) -> None:
    overrides = ["MODEL.PVT.NAME", name, "MODEL.PVT.LINEAR", str(linear), "MODEL.DEVICE", "cpu"]
    model = build_model(load_config("sparseinst/sparse_inst_pvt_b1_giam", overrides))
    # Only the linear variant reduces the last stage's keys, too.
    assert hasattr(model.backbone.block4[0].attn, "sr")
