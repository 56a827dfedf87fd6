"""Against sampling by hand, against plain convolutions, and within Detectron2's ResNet."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone
from torch.nn import functional as F

from instseg_d2.layers.deform_conv import (
    DeformConv,
    ModulatedDeformConv,
    OffsetConv,
    replace_detectron2_deform_conv,
)


def sampled(image: torch.Tensor, y: float, x: float) -> torch.Tensor:
    """Bilinear interpolation of (C, H, W) at a point, zero outside."""
    height, width = image.shape[1:]
    y0, x0 = int(y // 1), int(x // 1)
    total = image.new_zeros(len(image))
    for row in (y0, y0 + 1):
        for column in (x0, x0 + 1):
            if 0 <= row < height and 0 <= column < width:
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                total += weight * image[:, row, column]
    return total


def by_hand(conv: DeformConv, x, offset, mask=None) -> torch.Tensor:
    """The definition (arXiv 1811.11168, equation 1), one sample at a time."""
    batch, _, height, width = offset.shape
    kernel_h, kernel_w = conv.kernel_size
    group_size = conv.in_channels // conv.deformable_groups
    result = x.new_zeros(batch, conv.out_channels, height, width)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                patch = x.new_zeros(conv.in_channels, kernel_h, kernel_w)
                for group in range(conv.deformable_groups):
                    channels = slice(group * group_size, (group + 1) * group_size)
                    for position in range(kernel_h * kernel_w):
                        row, column = divmod(position, kernel_w)
                        index = group * kernel_h * kernel_w + position
                        dy, dx = (offset[b, 2 * index + axis, i, j].item() for axis in (0, 1))
                        y = i * conv.stride[0] - conv.padding[0] + row * conv.dilation[0] + dy
                        z = j * conv.stride[1] - conv.padding[1] + column * conv.dilation[1] + dx
                        value = sampled(x[b, channels], y, z)
                        scale = 1 if mask is None else mask[b, index, i, j]
                        patch[channels, row, column] = scale * value
                result[b, :, i, j] = F.conv2d(patch[None], conv.weight, groups=conv.groups)[
                    0, :, 0, 0
                ]
    return result if conv.bias is None else result + conv.bias[:, None, None]


SETTINGS = [
    {"stride": 1, "padding": 1},
    {"stride": 2, "padding": 1},
    {"stride": 1, "padding": 2, "dilation": 2},
    {"stride": 1, "padding": 1, "deformable_groups": 2},
    {"stride": 1, "padding": 1, "groups": 2},
]


def case(settings, modulated):
    x = torch.randn(2, 4, 6, 5, dtype=torch.float64)
    kind = ModulatedDeformConv if modulated else DeformConv
    conv = kind(4, 6, 3, **settings).double()
    if conv.bias is not None:
        torch.nn.init.normal_(conv.bias)
    groups = settings.get("deformable_groups", 1)
    size = F.conv2d(
        x, x.new_zeros(1, 4, 3, 3), None, conv.stride, conv.padding, conv.dilation
    ).shape[2:]
    inputs = [x, 1.5 * torch.randn(2, 18 * groups, *size, dtype=torch.float64)]
    if modulated:
        inputs.append(torch.rand(2, 9 * groups, *size, dtype=torch.float64))
    return conv, inputs


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("settings", SETTINGS)
def test_equals_the_definition(settings, modulated) -> None:
    conv, inputs = case(settings, modulated)
    with torch.no_grad():
        torch.testing.assert_close(conv(*inputs), by_hand(conv, *inputs))


@pytest.mark.parametrize("modulated", [False, True])
def test_gradients_equal_finite_differences(modulated) -> None:
    conv, inputs = case({"stride": 2, "padding": 1, "deformable_groups": 2}, modulated)
    inputs = [value.requires_grad_() for value in inputs]
    assert torch.autograd.gradcheck(conv, inputs)


def test_without_offsets_it_is_a_convolution() -> None:
    conv = DeformConv(8, 8, 3, stride=2, padding=1, groups=2)
    x = torch.randn(2, 8, 9, 7)
    expected = F.conv2d(x, conv.weight, None, 2, 1, groups=2)
    torch.testing.assert_close(conv(x, torch.zeros(2, 18, 5, 4)), expected)


@pytest.mark.parametrize("modulated", [False, True])
def test_a_new_offset_conv_leaves_the_regular_grid(modulated) -> None:
    x = torch.randn(1, 8, 6, 6)
    offset_conv = OffsetConv(8, stride=2, deformable_groups=2, modulated=modulated)
    kind = ModulatedDeformConv if modulated else DeformConv
    conv = kind(8, 4, 3, stride=2, padding=1, deformable_groups=2)
    regular = F.conv2d(x, conv.weight, None, 2, 1)
    expected = regular / 2 if modulated else regular  # sigmoid(0) = 1/2
    torch.testing.assert_close(conv(x, *offset_conv(x)), expected)


@pytest.mark.parametrize("modulated", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype, modulated) -> None:
    conv, inputs = case({"padding": 1}, modulated)
    conv, inputs = conv.float(), [value.to(dtype) for value in inputs]
    with torch.no_grad():
        result = conv(*inputs)
        expected = conv(*(value.float() for value in inputs)).to(dtype)
    assert result.dtype == dtype
    assert torch.equal(result, expected)


def test_autocast_trains_it() -> None:
    conv, offset_conv = DeformConv(4, 4, 3, padding=1), OffsetConv(4)
    with torch.autocast("cpu", torch.bfloat16):
        x = F.conv2d(torch.randn(1, 4, 6, 6), torch.randn(4, 4, 1, 1))
        conv(x, *offset_conv(x)).float().square().sum().backward()
    for parameter in (conv.weight, offset_conv.weight):
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().sum() > 0


def test_an_empty_batch_has_the_right_shape() -> None:
    conv = DeformConv(4, 6, 3, stride=2, padding=1)
    result = conv(torch.zeros(0, 4, 9, 7), torch.zeros(0, 18, 5, 4))
    assert result.shape == (0, 6, 5, 4)


def test_impossible_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="deformable_groups 3"):
        DeformConv(4, 4, 3, deformable_groups=3)
    with pytest.raises(ValueError, match="out_channels 3"):
        DeformConv(4, 3, 3, groups=2)
    with pytest.raises(ValueError, match="27 channels, expected 18"):
        DeformConv(4, 4, 3)(torch.zeros(1, 4, 5, 5), torch.zeros(1, 27, 3, 3))


@pytest.mark.parametrize("modulated", [False, True])
def test_detectron2s_resnet_has_deformable_blocks(modulated) -> None:
    replace_detectron2_deform_conv()
    cfg = get_cfg()
    cfg.MODEL.RESNETS.merge_from_other_cfg(
        type(cfg)(
            {
                "DEFORM_ON_PER_STAGE": [False, False, True, True],
                "DEFORM_MODULATED": modulated,
                "DEFORM_NUM_GROUPS": 2,
                "OUT_FEATURES": ["res4", "res5"],
                "WIDTH_PER_GROUP": 4,
                "STEM_OUT_CHANNELS": 8,
                "RES2_OUT_CHANNELS": 16,
            }
        )
    )
    backbone = build_backbone(cfg)
    names = [name for name, _ in backbone.named_parameters() if "conv2_offset" in name]
    assert len(names) == 2 * (6 + 3)  # weight and bias in every block of res4 and res5
    outputs = backbone(torch.randn(1, 3, 64, 64))
    assert outputs["res5"].shape == (1, 128, 2, 2)
    sum(value.square().mean() for value in outputs.values()).backward()
    gradients = dict(backbone.named_parameters())
    assert all(gradients[name].grad.abs().sum() > 0 for name in names)


def test_equals_detectron2s_compiled_operator() -> None:
    pytest.importorskip("detectron2._C", reason="this Detectron2 has no compiled operators")
    if not torch.cuda.is_available():
        pytest.skip("Detectron2's compiled operator runs on CUDA only")
    from detectron2.layers.deform_conv import _DeformConv, _ModulatedDeformConv

    for settings in SETTINGS:
        for modulated in (False, True):
            conv, inputs = case(settings, modulated)
            conv, inputs = conv.float().cuda(), [value.float().cuda() for value in inputs]
            shape = (conv.stride[0], conv.padding[0], conv.dilation[0])
            groups = (conv.groups, conv.deformable_groups)
            if modulated:
                expected = _ModulatedDeformConv.apply(
                    *inputs, conv.weight, conv.bias, *shape, *groups
                )
            else:
                pairs = [(value, value) for value in shape]
                expected = _DeformConv.apply(*inputs, conv.weight, *pairs, *groups)
            torch.testing.assert_close(conv(*inputs), expected)
