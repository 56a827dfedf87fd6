import math

import pytest
import torch

from sparseinst_d2 import BaseIAMDecoder, GroupIAMDecoder, GroupIAMSoftDecoder
from sparseinst_d2.decoder import InstanceBranch, SoftmaxInstanceBranch

SMALL = {
    "in_channels": 8,
    "num_masks": 5,
    "num_classes": 3,
    "kernel_dim": 4,
    "inst_dim": 12,
    "inst_convs": 1,
    "mask_dim": 8,
    "mask_convs": 1,
}
DECODERS = [
    (BaseIAMDecoder, {}),
    (GroupIAMDecoder, {"groups": 4}),
    (GroupIAMDecoder, {"groups": 3}),
    (GroupIAMDecoder, {"groups": 1}),
    (GroupIAMSoftDecoder, {"groups": 2}),
]


@pytest.mark.parametrize(("decoder_type", "extra"), DECODERS)
@pytest.mark.parametrize("size", [(6, 9), (1, 1), (1, 4)])
def test_shapes_and_finite_gradients(
    decoder_type: type, extra: dict[str, int], size: tuple[int, int]
) -> None:
    decoder = decoder_type(**SMALL, **extra)
    outputs = decoder(torch.randn(2, 8, *size))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "pred_logits": (2, 5, 3),
        "pred_masks": (2, 5, 2 * size[0], 2 * size[1]),
        "pred_scores": (2, 5, 1),
    }
    sum(value.square().sum() for value in outputs.values()).backward()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize("branch_type", [InstanceBranch, SoftmaxInstanceBranch])
def test_activation_weights_sum_to_one(branch_type: type[InstanceBranch]) -> None:
    """So that of a constant feature the pooled one is that constant."""
    branch = branch_type(
        in_channels=4, dim=4, num_convs=1, num_masks=3, num_classes=2, kernel_dim=2
    )
    constant = torch.randn(2, 4, 1)
    pooled = branch.pool(torch.randn(2, 3, 50), constant.expand(2, 4, 50))
    torch.testing.assert_close(pooled, constant.transpose(1, 2).expand(2, 3, 4))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("branch_type", [InstanceBranch, SoftmaxInstanceBranch])
def test_sums_over_a_large_map_do_not_overflow(
    branch_type: type[InstanceBranch], dtype: torch.dtype
) -> None:
    branch = branch_type(
        in_channels=4, dim=4, num_convs=1, num_masks=1, num_classes=2, kernel_dim=2
    )
    pixels = 300 * 300
    feature = torch.full((1, 4, pixels), 100.0, dtype=dtype)
    pooled = branch.pool(torch.full((1, 1, pixels), 9.0, dtype=dtype), feature.to(dtype))
    torch.testing.assert_close(pooled.float(), torch.full((1, 1, 4), 100.0), rtol=0.02, atol=0)


def test_maps_that_are_all_but_zero_do_not_divide_by_zero() -> None:
    branch = InstanceBranch(
        in_channels=4, dim=4, num_convs=1, num_masks=3, num_classes=2, kernel_dim=2
    )
    pooled = branch.pool(torch.full((1, 3, 50), -200.0), torch.randn(1, 4, 50))
    assert torch.isfinite(pooled).all()


def test_groups_are_read_group_first() -> None:
    """Map g*N + n belongs to instance n, and its vector stands at place g of that instance."""
    branch = InstanceBranch(
        in_channels=4, dim=4, num_convs=1, num_masks=3, num_classes=2, kernel_dim=2, groups=2
    )
    vectors = torch.arange(6.0)[None, :, None].expand(1, 6, 4)  # vector of map i is (i, i, i, i)
    joined = branch._concatenate_groups(vectors)
    assert joined[0].tolist() == [[n] * 4 + [3 + n] * 4 for n in range(3)]


def test_masks_are_kernels_times_features_upsampled() -> None:
    decoder = BaseIAMDecoder(**SMALL, scale_factor=1.0)
    feature = torch.randn(1, 8, 6, 7)
    kernel = decoder.inst_branch(feature)[1]
    expected = torch.einsum("bnd,bdhw->bnhw", kernel, decoder.mask_branch(feature))
    torch.testing.assert_close(decoder(feature)["pred_masks"], expected)


def test_classes_start_at_the_prior_probability() -> None:
    logits = BaseIAMDecoder(**SMALL)(torch.randn(1, 8, 6, 7))["pred_logits"]
    assert logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.2)
    branch = BaseIAMDecoder(**SMALL).inst_branch
    assert branch.iam_conv.bias[0].item() == pytest.approx(-math.log(99))


def test_softmax_bias_changes_nothing() -> None:
    decoder = GroupIAMSoftDecoder(**SMALL, groups=2)
    feature = torch.randn(1, 8, 6, 7)
    before = decoder(feature)["pred_logits"]
    decoder.inst_branch.softmax_bias.data += 3
    torch.testing.assert_close(decoder(feature)["pred_logits"], before)


def test_activation_maps_on_request() -> None:
    outputs = GroupIAMDecoder(**SMALL, groups=2, output_iam=True)(torch.randn(1, 8, 6, 7))
    assert outputs["pred_iam"].shape == (1, 10, 6, 7)


def test_groups_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match="GROUPS"):
        GroupIAMDecoder(**SMALL, groups=5)


@pytest.mark.parametrize("key", ["inst_convs", "mask_convs"])
def test_a_branch_needs_a_convolution(key: str) -> None:
    with pytest.raises(ValueError, match=r"CONVS .*at least 1"):
        BaseIAMDecoder(**{**SMALL, key: 0})
