"""Folded batch norms: the same function with fewer modules."""

import copy
from typing import Any

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d, get_norm
from timm.layers import BatchNormAct2d, ConvNormAct, StdConv2d
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn
from torch.nn import functional as F

from instseg_d2.config import load_config
from instseg_d2.inference.fold_norms import fold_norms
from instseg_d2.layers.deform_conv import DeformConv
from tests.small_backbones import only_backbone


def varied(module: nn.Module) -> nn.Module:
    """In eval mode, with random statistics, scales and shifts; float64, to see what is exact."""
    for norm in batch_norms(module):
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = getattr(norm, name)
            if value is not None:
                value.data.uniform_(0.5, 2.0)
    return module.eval().double()


def batch_norms(module: nn.Module) -> list[nn.Module]:
    kinds = (FrozenBatchNorm2d, nn.modules.batchnorm._BatchNorm)
    return [part for part in module.modules() if isinstance(part, kinds)]


def assert_folds(module: nn.Module, count: int, *inputs: Tensor) -> None:
    """All batch norms are gone, and the output is the same."""
    module = varied(module)
    folded = copy.deepcopy(module)
    assert fold_norms(folded) == count
    assert not batch_norms(folded)
    torch.testing.assert_close(folded(*inputs), module(*inputs))


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("activation", [None, F.relu])
def test_norm_of_a_detectron2_convolution(norm: str, bias: bool, activation: object) -> None:
    conv = Conv2d(4, 6, 3, 2, 1, groups=2, bias=bias, norm=get_norm(norm, 6), activation=activation)
    assert_folds(conv, 1, random(2, 4, 7, 9))


def test_sync_batch_norm_is_a_batch_norm() -> None:
    conv = varied(Conv2d(4, 6, 1, norm=nn.SyncBatchNorm(6)))
    expected = copy.deepcopy(conv)
    expected.norm = nn.BatchNorm2d(6).double().eval()
    expected.norm.load_state_dict(conv.norm.state_dict())
    assert fold_norms(conv) == 1
    x = random(2, 4, 3, 3)
    torch.testing.assert_close(conv(x), expected(x))


def test_norm_without_scale_and_shift() -> None:
    assert_folds(Conv2d(3, 5, 1, norm=nn.BatchNorm2d(5, affine=False)), 1, random(1, 3, 4, 4))


def test_norm_of_a_deformable_convolution() -> None:
    conv = DeformConv(4, 6, 3, padding=1, norm=FrozenBatchNorm2d(6), activation=F.relu)
    assert_folds(conv, 1, random(1, 4, 5, 6), random(1, 18, 5, 6))


def test_neighbours_in_a_sequential() -> None:
    layers = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 1)),
        nn.BatchNorm2d(6),
        nn.ReLU(),
    )
    assert_folds(layers, 2, random(2, 3, 6, 6))


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_blocks_of_timm(block: type[nn.Module]) -> None:
    width = 4 * block.expansion
    downsample = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(8, width, 1), nn.BatchNorm2d(width))
    count = 3 if block is BasicBlock else 4
    assert_folds(block(8, 4, stride=2, downsample=downsample), count, random(2, 8, 6, 6))


@pytest.mark.parametrize("activation", [nn.LeakyReLU, None])
def test_timms_norms_keep_their_activation(activation: type[nn.Module] | None) -> None:
    block = ConvNormAct(3, 5, 3, norm_layer=BatchNormAct2d, act_layer=activation)
    assert_folds(block, 1, random(2, 3, 6, 6))


def test_a_module_may_declare_pairs() -> None:
    class Stem(nn.Module):
        conv_norm_pairs = (("first", "norm"),)

        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(5)
            self.first = nn.Sequential(nn.ReLU(), nn.Conv2d(3, 5, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.first(x))

    assert_folds(Stem(), 1, random(2, 3, 6, 6))


class OutOfOrder(nn.Module):
    """Norm before convolution, under the names that are common for the other order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(F.relu(self.bn1(x)))


class Shared(nn.Module):
    """One convolution, two norms."""

    def __init__(self) -> None:
        super().__init__()
        conv = nn.Conv2d(4, 4, 1)
        self.first = nn.Sequential(conv, nn.BatchNorm2d(4))
        self.second = nn.Sequential(conv, nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) + self.second(x)


@pytest.mark.parametrize(
    "module",
    [
        OutOfOrder(),
        Shared(),
        nn.Sequential(StdConv2d(4, 4, 1), nn.BatchNorm2d(4)),  # normalises its weight
        nn.Sequential(nn.ConvTranspose2d(4, 4, 2), nn.BatchNorm2d(4)),
        nn.Sequential(Conv2d(4, 4, 1, activation=F.relu), nn.BatchNorm2d(4)),
        nn.utils.parametrizations.weight_norm(Conv2d(4, 4, 1, norm=nn.BatchNorm2d(4))),
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        Conv2d(4, 4, 1, norm=nn.GroupNorm(2, 4)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_what_does_not_fold_stays(module: nn.Module) -> None:
    module = module.eval()
    folded = copy.deepcopy(module)
    assert fold_norms(folded) == 0
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(folded(x), module(x))


def test_training_norms_stay() -> None:
    conv = Conv2d(4, 4, 1, norm=nn.BatchNorm2d(4))
    assert fold_norms(conv.train()) == 0


@pytest.mark.parametrize(
    "name",
    ["r50_giam", "r50_dcn_giam_aug", "r50vd_dcn_giam", "cspdarknet53_giam", "darknet53_giam"],
)
def test_backbones_of_sparse_inst(tiny_overrides: list[str], name: str) -> None:
    cfg = load_config(f"sparseinst/sparse_inst_{name}", tiny_overrides)
    model: Any = only_backbone(cfg).double().eval()
    folded = copy.deepcopy(model)
    before = len(batch_norms(model))
    assert fold_norms(folded) == before - len(batch_norms(folded))
    assert len(batch_norms(folded)) <= (1 if "vd" in name else 0)
    image = random(1, 3, 64, 96)
    with torch.no_grad():
        expected, actual = model["backbone"](image), folded["backbone"](image)
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, rtol=1e-6, atol=1e-6 * value.abs().max())
