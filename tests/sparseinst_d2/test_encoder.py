import copy

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch.nn import functional as F

from instseg_d2.config import get_cfg
from instseg_d2.errors import ConfigError
from sparseinst_d2.encoder import InstanceContextEncoder, PyramidPoolingModule, build_encoder


def small_encoder() -> InstanceContextEncoder:
    return InstanceContextEncoder(
        in_channels=[8, 16, 32], in_features=["res3", "res4", "res5"], channels=12
    )


def pyramid(height: int, width: int) -> dict[str, torch.Tensor]:
    """Random features of an input of that size, strides 8, 16, 32."""
    return {
        name: torch.randn(2, channels, height // stride, width // stride)
        for name, channels, stride in (("res3", 8, 8), ("res4", 16, 16), ("res5", 32, 32))
    }


@pytest.mark.parametrize("size", [(64, 96), (32, 32), (224, 160)])
def test_output_has_the_finest_size(size: tuple[int, int]) -> None:
    output = small_encoder()(pyramid(*size))
    assert output.shape == (2, 12, size[0] // 8, size[1] // 8)


def test_equals_the_written_out_formula() -> None:
    encoder = small_encoder()
    features = pyramid(64, 96)
    coarse, middle, fine = (
        lateral(features[name])
        for lateral, name in zip(encoder.fpn_laterals, ("res5", "res4", "res3"), strict=True)
    )
    coarse = encoder.ppm(coarse)
    middle = middle + F.interpolate(coarse, scale_factor=2, mode="nearest")
    fine = fine + F.interpolate(middle, scale_factor=2, mode="nearest")
    outputs = [
        output(top) for output, top in zip(encoder.fpn_outputs, (coarse, middle, fine), strict=True)
    ]
    finest_first = [
        F.interpolate(level, size=(8, 12), mode="bilinear", align_corners=False)
        for level in outputs[::-1]
    ]
    torch.testing.assert_close(encoder(features), encoder.fusion(torch.cat(finest_first, 1)))


def test_with_fixed_weights_the_fusion_is_part_of_the_outputs() -> None:
    encoder = small_encoder().double()
    for parameter in encoder.parameters():
        parameter.data.normal_()
    features = {name: value.double() for name, value in pyramid(64, 96).items()}
    expected = encoder(features)
    merged = copy.deepcopy(encoder).for_inference()
    assert merged.fusion is None
    torch.testing.assert_close(merged(features), expected)
    torch.testing.assert_close(merged.for_inference()(features), expected)


def test_a_norm_keeps_the_fusion_apart() -> None:
    encoder = InstanceContextEncoder(
        in_channels=[8, 16, 32], in_features=["res3", "res4", "res5"], channels=12, norm="LN"
    )
    features = pyramid(64, 96)
    expected = encoder(features)
    torch.testing.assert_close(encoder.for_inference()(features), expected)


def test_levels_that_do_not_halve_exactly_are_accepted() -> None:
    features = {
        "res3": torch.randn(1, 8, 9, 7),
        "res4": torch.randn(1, 16, 5, 4),
        "res5": torch.randn(1, 32, 3, 2),
    }
    assert small_encoder()(features).shape == (1, 12, 9, 7)


def test_pyramid_pooling_of_a_constant_is_constant() -> None:
    output = PyramidPoolingModule(8, 2)(torch.ones(1, 8, 5, 9))
    torch.testing.assert_close(output, output[:, :, :1, :1].expand_as(output))


def test_pyramid_pooling_reaches_the_far_corner() -> None:
    feature = torch.rand(1, 8, 12, 12, requires_grad=True)
    # A bottleneck that is positive everywhere, so that ReLU does not hide the path.
    ppm = PyramidPoolingModule(8, 2)
    for parameter in ppm.parameters():
        parameter.data.abs_()
    ppm(feature)[0, :, 0, 0].sum().backward()
    assert (feature.grad[0, :, -1, -1] != 0).any()


def test_norm_is_built_and_replaces_the_bias() -> None:
    encoder = InstanceContextEncoder(
        in_channels=[8, 8], in_features=["a", "b"], channels=8, norm="BN"
    )
    assert encoder.fpn_outputs[0].bias is None
    assert isinstance(encoder.fpn_outputs[0].norm, torch.nn.BatchNorm2d)


def test_a_one_cell_map_trains_with_batch_norm() -> None:
    """The pooled 1x1 map has one value a channel: batch norm would refuse a single image."""
    encoder = InstanceContextEncoder(
        in_channels=[8, 8], in_features=["a", "b"], channels=8, norm="BN"
    )
    features = {"a": torch.randn(1, 8, 4, 4), "b": torch.randn(1, 8, 2, 2)}
    assert torch.isfinite(encoder.train()(features)).all()


def test_channels_must_divide_by_the_number_of_pools() -> None:
    with pytest.raises(ValueError, match="multiple of 4"):
        InstanceContextEncoder(in_channels=[8], in_features=["a"], channels=10)


def test_an_unknown_name_lists_those_there_are() -> None:
    cfg = get_cfg()
    cfg.MODEL.SPARSE_INST.ENCODER.NAME = "FPNPPMEncoder"
    with pytest.raises(ConfigError, match=r"ENCODER\.NAME.*InstanceContextEncoder"):
        build_encoder(cfg, {"res3": ShapeSpec(channels=8, stride=8)})
