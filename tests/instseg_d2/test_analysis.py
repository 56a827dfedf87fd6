"""Counts against hand computations and against PyTorch's own counter."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from instseg_d2.analysis import Analysis, Chain, analyze
from instseg_d2.layers.deform_conv import DeformConv, ModulatedDeformConv
from instseg_d2.model_zoo import get


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def analyze_model(name: str, height: int, width: int, depth: int = 1) -> Analysis:
    model = get(f"sparseinst/sparse_inst_{name}", device="cpu")
    chain = Chain(backbone=model.backbone, encoder=model.encoder, decoder=model.decoder)
    return analyze(chain, torch.zeros(1, 3, height, width), depth=depth)


def resnet50_convs(height: int, width: int) -> int:
    """Multiply-adds of ResNet-50's convolutions, by the table of its paper; sides: multiples of 32.

    The stride is in a block's 3x3 convolution.
    """
    positions = height * width // 4
    total = positions * 3 * 64 * 7 * 7
    positions //= 4  # max-pooling
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width_, out = 64 * 2**stage, 256 * 2**stage
        for block in range(blocks):
            before = positions
            if block == 0 and stage:
                positions //= 4
            total += before * channels * width_
            total += positions * width_ * width_ * 9
            total += positions * width_ * out
            if block == 0:
                total += positions * channels * out
            channels = out
    return total


def test_convolutions_of_resnet50() -> None:
    # torchvision gives 4.089 G for an image of 224 x 224, 0.002 of them in the classifier.
    assert resnet50_convs(224, 224) + 2048 * 1000 == pytest.approx(4.089e9, abs=0.5e6)
    parts = analyze_model("r50_base", 64, 96).parts
    assert parts["backbone"].by_operator["conv"] == resnet50_convs(64, 96)


@pytest.mark.parametrize(("name", "groups"), [("r50_base", 1), ("r50_giam", 4)])
def test_products_of_the_decoder(name: str, groups: int) -> None:
    decoder = analyze_model(name, 64, 96).parts["decoder"].by_operator
    pixels = 8 * 12
    assert decoder["matmul"] == pixels * 100 * (groups * 256 + 128)  # instances, masks
    width = 256 * groups
    fc = width * width if groups > 1 else 0
    assert decoder["linear"] == 100 * (fc + width * (80 + 128 + 1))
    coordinates = 256 + 2
    convs = 2 * (coordinates + 3 * 256) * 256 * 9  # both branches
    iam, projection = 100 * 256 * 9, 256 * 128
    assert decoder["conv"] == pixels * (convs + iam + projection)


@pytest.mark.parametrize("modulated", [False, True])
def test_deformable_convolution(modulated: bool) -> None:
    make = ModulatedDeformConv if modulated else DeformConv
    conv = make(6, 8, 3, stride=2, padding=1, groups=2, deformable_groups=3)
    inputs = [torch.zeros(2, 6, 10, 14), torch.zeros(2, 2 * 3 * 9, 5, 7)]
    inputs += [torch.zeros(2, 3 * 9, 5, 7)] * modulated
    total = analyze(conv, *inputs).total
    positions = 2 * 5 * 7
    assert total.by_operator == {
        "deform_conv": positions * 8 * (6 // 2) * 9,
        "deform_sampling": positions * 6 * 9 * (4 + modulated),
    }
    assert total.activations == positions * 8


def test_attention() -> None:
    query, key = torch.zeros(2, 3, 5, 4), torch.zeros(2, 3, 7, 4)
    value = torch.zeros(2, 3, 7, 6)
    total = analyze(Call(F.scaled_dot_product_attention), query, key, value).total
    assert total.by_operator == {"attention": 2 * 3 * (5 * 7 * 4 + 5 * 7 * 6)}
    assert total.activations == 2 * 3 * 5 * 6


def test_attention_of_a_pyramid_transformer() -> None:
    """Stage 1 of PVTv2-B1: 2 blocks, 1 head of 64, keys at an eighth of the side."""
    analysis = analyze_model("pvt_b1_giam", 64, 96, depth=2)
    tokens, keys = 16 * 24, 2 * 3
    expected = 2 * (2 * tokens * keys * 64)
    assert analysis.parts["backbone.block1"].by_operator["attention"] == expected


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ((5, 3), (3, 7), 5 * 3 * 7),
        ((2, 5, 3), (2, 3, 7), 2 * 5 * 3 * 7),
        ((5, 3), (2, 3, 7), 2 * 5 * 3 * 7),
        ((4, 1, 5, 3), (2, 3, 7), 4 * 2 * 5 * 3 * 7),
        ((2, 5, 3), (3,), 2 * 5 * 3),
        ((3,), (3, 7), 3 * 7),
    ],
)
def test_matrix_products(left: tuple[int, ...], right: tuple[int, ...], expected: int) -> None:
    total = analyze(Call(torch.matmul), torch.zeros(left), torch.zeros(right)).total
    assert total.flops == expected
    assert total.activations == (torch.zeros(left) @ torch.zeros(right)).numel()


def test_products_under_other_names() -> None:
    left, right = torch.zeros(2, 5, 3), torch.zeros(2, 3, 7)
    for function, inputs in (
        (torch.bmm, (left, right)),
        (torch.baddbmm, (torch.zeros(2, 5, 7), left, right)),
        (lambda a, b: torch.einsum("bnk,bkm->bnm", a, b), (left, right)),
    ):
        analysis = analyze(Call(function), *inputs)
        assert analysis.total.flops == 2 * 5 * 3 * 7
        assert analysis.total.activations == 2 * 5 * 7
        assert not analysis.uncounted


class Doubled(torch.autograd.Function):
    """An operator that no tool knows."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return 2 * grad


def test_operators_without_a_rule_are_listed() -> None:
    def function(x: Tensor) -> Tensor:
        return Doubled.apply(x.cumsum(0).cumsum(1)).relu()

    uncounted = analyze(Call(function), torch.zeros(3, 4)).uncounted
    assert uncounted.pop("aten::cumsum") == 2
    (name,) = uncounted
    assert "PythonOp" in name


def test_parts() -> None:
    head = nn.Sequential(nn.Conv2d(4, 5, 1), nn.ReLU(), nn.Conv2d(5, 6, 1, bias=False))
    network = Chain(body=nn.Conv2d(3, 4, 3, padding=1), unused=nn.Identity(), head=head)
    analysis = analyze(network, torch.zeros(2, 3, 8, 9), depth=2)
    assert list(analysis.parts) == ["body", "head", "head.0", "head.2"]  # the others are free
    pixels = 2 * 8 * 9
    body, inner = analysis.parts["body"], analysis.parts["head"]
    assert (body.params, body.flops) == (3 * 4 * 9 + 4, pixels * 3 * 4 * 9)
    assert (inner.params, inner.flops) == (4 * 5 + 5 + 5 * 6, pixels * (4 * 5 + 5 * 6))
    assert inner.activations == pixels * (5 + 6)
    assert analysis.total.params == sum(p.numel() for p in network.parameters())
    assert analysis.total.flops == body.flops + inner.flops
    assert list(analyze(network, torch.zeros(1, 3, 8, 8)).parts) == ["body", "head"]


def test_frozen_parameters_count_and_frozen_norms_do_not() -> None:
    network = Chain(conv=nn.Conv2d(3, 4, 1).requires_grad_(False), norm=FrozenBatchNorm2d(4))
    total = analyze(network, torch.zeros(1, 3, 5, 6)).total
    assert total.params == 3 * 4 + 4
    # As one operator, two multiply-adds a value, although the input could need gradients.
    assert total.by_operator == {"conv": 30 * 3 * 4, "batch_norm": 30 * 4 * 2}


@pytest.mark.parametrize("name", ["r50_giam_soft", "cspdarknet53_giam", "pvt_b2_li_giam"])
def test_pytorch_counts_the_same(name: str) -> None:
    """Its counter knows convolutions and matrix products, and counts a multiply-add twice."""
    model = get(f"sparseinst/sparse_inst_{name}", device="cpu")
    network = Chain(backbone=model.backbone, encoder=model.encoder, decoder=model.decoder)
    images = torch.zeros(2, 3, 64, 96)
    analysis = analyze(network, images)
    # In its plain form attention consists of matrix products that the counter knows.
    plain = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, plain, torch.no_grad():
        network(images)
    ours = analysis.total.by_operator
    products = sum(ours.get(key, 0) for key in ("conv", "linear", "matmul", "attention"))
    assert products == counter.get_total_flops() / 2
    assert not analysis.uncounted


def test_every_operator_of_a_deformable_network_has_a_rule() -> None:
    analysis = analyze_model("r50vd_dcn_giam", 64, 96)
    assert not analysis.uncounted
    # res4 has 6 deformable blocks of width 256, res5 has 3 of width 512.
    positions = 4 * 6 * 256**2 * 6 + 2 * 3 * 512**2 * 3
    assert analysis.total.by_operator["deform_conv"] == positions * 9
