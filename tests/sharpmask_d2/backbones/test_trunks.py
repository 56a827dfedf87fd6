"""What both trunks promise, and equality with the networks that their weights come from."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from detectron2.modeling import build_backbone
from detectron2.modeling.backbone import Backbone
from torch import nn

from instseg_d2.errors import ConfigError
from sharpmask_d2.backbones import VGG
from sharpmask_d2.padding import MirroredConv2d
from tests.sharpmask_d2.small_networks import count, make_config

SLIM_RESNET = {
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
}
NODE = "MODEL.SHARP_MASK"


def resnet(overrides: dict[str, Any] = {}) -> Backbone:  # noqa: B006
    everything = {"MODEL.RESNETS.OUT_FEATURES": ["stem", "res2", "res3", "res4", "res5"]}
    return build_backbone(make_config(overrides={**SLIM_RESNET, **everything, **overrides}))


def vgg(**options: Any) -> VGG:
    small = {"channels": (4, 8, 8, 16, 16), "out_features": [f"block{i}" for i in range(1, 6)]}
    return VGG(**{**small, **options})


TRUNKS = {
    "resnet": (resnet, [2, 4, 8, 16, 32]),
    "vgg_a": (vgg, [1, 2, 4, 8, 16]),
    "vgg_d": (lambda: vgg(depth=16), [1, 2, 4, 8, 16]),
}


@pytest.mark.parametrize("name", TRUNKS)
def test_features_have_the_promised_shapes(name: str) -> None:
    build, strides = TRUNKS[name]
    trunk = build().eval()
    shapes = trunk.output_shape()
    outputs = trunk(torch.randn(1, 3, 64, 96))
    assert list(outputs) == list(shapes)
    assert [spec.stride for spec in shapes.values()] == strides
    for key, spec in shapes.items():
        assert outputs[key].shape == (1, spec.channels, 64 // spec.stride, 96 // spec.stride)
        assert outputs[key].min() >= 0  # after the ReLU


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet_is_detectron2s_but_for_the_padding(depth: int) -> None:
    widths = {} if depth == 50 else dict.fromkeys(list(SLIM_RESNET)[1:], 64)
    overrides = {f"{NODE}.PADDING": "zeros", "MODEL.RESNETS.DEPTH": depth, **widths}
    ours = resnet(overrides)
    theirs = resnet({**overrides, "MODEL.BACKBONE.NAME": "build_resnet_backbone"})
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64)
    actual, expected = ours(x), theirs(x)
    for name in ("res2", "res3", "res4", "res5"):
        torch.testing.assert_close(actual[name], expected[name])
    pooled = nn.functional.max_pool2d(actual["stem"], 3, stride=2, padding=1)
    torch.testing.assert_close(pooled, expected["stem"])


@pytest.mark.parametrize("depth", [11, 16])
def test_vgg_is_torchvisions_but_for_the_padding(depth: int) -> None:
    net = torchvision.models.get_model(f"vgg{depth}", weights=None).features[:-1].eval()
    ours = VGG(depth=depth, padding="zeros", out_features=["block5"]).eval()
    values = net.state_dict().values()
    ours.load_state_dict(dict(zip(ours.state_dict(), values, strict=True)), strict=True)
    x = torch.randn(1, 3, 48, 32)
    torch.testing.assert_close(ours(x)["block5"], net(x), rtol=1e-4, atol=1e-5)


def test_vgg_has_native_names() -> None:
    names = list(vgg().state_dict())
    assert names[:2] == ["block1.conv1.weight", "block1.conv1.bias"]
    assert names[-2:] == ["block5.conv2.weight", "block5.conv2.bias"]


def modes(trunk: nn.Module) -> dict[str, str]:
    return {
        name: module.mirroring
        for name, module in trunk.named_modules()
        if isinstance(module, MirroredConv2d)
    }


def test_every_padded_convolution_follows_the_config() -> None:
    found = modes(resnet({f"{NODE}.PADDING": "reflect"}))
    assert len(found) == 1 + 16
    assert set(found.values()) == {"reflect"}
    assert set(modes(build_backbone(make_config(overrides={
        "MODEL.BACKBONE.NAME": "build_vgg_backbone", f"{NODE}.PADDING": "reflect",
    }))).values()) == {"reflect"}  # fmt: skip


def test_the_first_convolution_may_pad_otherwise() -> None:
    found = modes(resnet({f"{NODE}.PADDING": "reflect", f"{NODE}.STEM_PADDING": "symmetric"}))
    assert found.pop("stem.conv1") == "symmetric"
    assert set(found.values()) == {"reflect"}


def test_mirrored_maps_of_a_constant_image_are_constant() -> None:
    """What the mirroring is for: nothing shows where the image ends."""
    x = torch.full((1, 3, 64, 64), 0.7)
    for trunk in (resnet(), vgg()):
        for name, feature in trunk.eval()(x).items():
            spread = feature.amax((2, 3)) - feature.amin((2, 3))
            assert spread.max() <= 1e-4 * feature.max(), name


def test_stages_that_nobody_wants_are_not_built() -> None:
    trunk = resnet({"MODEL.RESNETS.OUT_FEATURES": ["stem", "res3"]})
    assert {name for name, _ in trunk.named_children()} == {"stem", "res2", "res3"}
    assert list(trunk(torch.randn(1, 3, 32, 32))) == ["stem", "res3"]
    assert {name for name, _ in vgg(out_features=["block2"]).named_children()} == {
        "block1",
        "block2",
    }


@pytest.mark.parametrize("freeze_at", [0, 1, 3])
def test_freezing_keeps_the_first_stages(freeze_at: int) -> None:
    trunk = resnet({"MODEL.BACKBONE.FREEZE_AT": freeze_at, "MODEL.RESNETS.NORM": "BN"})
    frozen = {"stem": 1, "res2": 2, "res3": 3, "res4": 4, "res5": 5}
    for name, value in trunk.named_parameters():
        assert value.requires_grad == (frozen[name.split(".")[0]] > freeze_at), name
    for name, value in vgg(freeze_at=freeze_at).named_parameters():
        assert value.requires_grad == (int(name[5]) > freeze_at), name


@pytest.mark.parametrize(
    ("overrides", "convolutions", "millions"),
    [
        # D39 and D21 count those of the bottlenecks; a first one and the shortcuts' come to them.
        ({"MODEL.RESNETS.OUT_FEATURES": ["res4"]}, 39 + 1 + 3, 8.54),
        ({"MODEL.RESNETS.OUT_FEATURES": ["res3"]}, 21 + 1 + 2, 1.44),
        ({"MODEL.BACKBONE.NAME": "build_vgg_backbone"}, 8, 9.22),
    ],
)
def test_depths_and_sizes_are_those_of_the_paper(
    overrides: dict[str, Any], convolutions: int, millions: float
) -> None:
    with torch.device("meta"):
        trunk = build_backbone(make_config(overrides=overrides))
    assert sum(isinstance(module, nn.Conv2d) for module in trunk.modules()) == convolutions
    assert count(trunk) / 1e6 == pytest.approx(millions, abs=0.02)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: resnet({"MODEL.RESNETS.OUT_FEATURES": ["p4"]}), r"RESNETS\.OUT_FEATURES is.*res5"),
        (lambda: resnet({"MODEL.RESNETS.OUT_FEATURES": []}), r"RESNETS\.OUT_FEATURES is \[\]"),
        (lambda: resnet({"MODEL.RESNETS.DEPTH": 51}), r"RESNETS\.DEPTH is 51"),
        (lambda: resnet({f"{NODE}.PADDING": "same"}), r"SHARP_MASK\.PADDING is 'same'"),
        (lambda: resnet({f"{NODE}.STEM_PADDING": "same"}), r"SHARP_MASK\.STEM_PADDING is 'same'"),
        (
            lambda: resnet({"MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, False, False, True]}),
            r"DEFORM_ON_PER_STAGE.*PADDING is symmetric",
        ),
        (lambda: vgg(depth=19), r"MODEL\.VGG\.DEPTH is 19; here are 11, 16"),
        (lambda: vgg(out_features=["block6"]), r"VGG\.OUT_FEATURES is \['block6'\].*block5"),
        (lambda: vgg(out_features=[]), r"VGG\.OUT_FEATURES is \[\]"),
        (lambda: vgg(channels=(4, 4)), r"VGG\.CHANNELS must have 5 entries"),
        (lambda: vgg(freeze_at=6), r"BACKBONE\.FREEZE_AT is 6, .* from 0 to 5"),
        (lambda: vgg(freeze_at=-1), r"BACKBONE\.FREEZE_AT is -1"),
        (lambda: vgg(padding="same"), r"SHARP_MASK\.PADDING is 'same'"),
    ],
)
def test_impossible_settings_name_the_key(build: Callable[[], nn.Module], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build()
