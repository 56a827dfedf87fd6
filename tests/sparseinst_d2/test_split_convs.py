"""Convolutions over concatenations, against the concatenations."""

import pytest
import torch
from detectron2.layers import Conv2d, get_norm
from torch import Tensor
from torch.nn import functional as F

from sparseinst_d2.split_convs import (
    CoordinateConv2d,
    convolve_stretched,
    coordinates,
    stretch,
)
from tests.plain.plain_network import convolve, with_coordinates


def assert_same_with_gradients(
    conv: Conv2d, inputs: list[Tensor], actual: Tensor, expected: Tensor
) -> None:
    """Values, and gradients of a random scalar by inputs and parameters, all float64."""
    torch.testing.assert_close(actual, expected)
    weight = torch.randn_like(expected)
    leaves = [*inputs, *conv.parameters()]
    gradients = [
        torch.autograd.grad((value * weight).sum(), leaves) for value in (actual, expected)
    ]
    torch.testing.assert_close(*gradients)


def test_coordinates_run_from_minus_one_to_one_x_first() -> None:
    x, y = coordinates(torch.Size([4, 5]), torch.zeros(()))[0]
    torch.testing.assert_close(x, torch.tensor([-1, -0.5, 0, 0.5, 1]).expand(4, 5))
    torch.testing.assert_close(y, torch.tensor([-1, -1 / 3, 1 / 3, 1])[:, None].expand(4, 5))


def test_coordinates_of_one_pixel_are_finite() -> None:
    assert coordinates(torch.Size([1, 1]), torch.zeros(())).flatten().tolist() == [-1, -1]


@pytest.mark.parametrize("size", [(6, 9), (1, 1), (1, 7), (8, 1)])
@pytest.mark.parametrize(
    ("bias", "norm", "activation"), [(True, "", None), (False, "BN", F.relu), (True, "LN", None)]
)
def test_coordinates_need_not_be_concatenated(
    size: tuple[int, int], bias: bool, norm: str, activation: object
) -> None:
    conv = CoordinateConv2d(
        7, 6, 3, padding=1, bias=bias, norm=get_norm(norm, 6), activation=activation
    ).double()
    feature = torch.randn(3, 5, *size, dtype=torch.float64, requires_grad=True)
    expected = convolve(conv, with_coordinates(feature))
    expected = expected if activation is None else activation(expected)
    assert_same_with_gradients(conv, [feature], conv(feature), expected)


def test_strides_and_dilations_concern_the_coordinates_too() -> None:
    conv = CoordinateConv2d(5, 4, 3, stride=2, padding=2, dilation=2)
    feature = torch.randn(2, 3, 9, 12)
    whole = with_coordinates(feature)
    expected = F.conv2d(whole, conv.weight, conv.bias, stride=2, padding=2, dilation=2)
    torch.testing.assert_close(conv(feature), expected)


@pytest.mark.parametrize("norm", ["", "LN"])
def test_fixed_weights_change_nothing(norm: str) -> None:
    """Sizes and types in turn: what was kept of the last one must not reach the next."""
    conv = CoordinateConv2d(5, 4, 3, padding=1, bias=not norm, norm=get_norm(norm, 4))
    state = torch.get_rng_state()
    fixed = conv.for_inference()
    assert torch.equal(torch.get_rng_state(), state)
    for size in ((6, 9), (6, 9), (9, 6), (1, 1), (6, 9)):
        feature = torch.randn(2, 3, *size)
        torch.testing.assert_close(fixed(feature), conv(feature))
    torch.testing.assert_close(fixed.double()(feature.double()), conv.double()(feature.double()))


@pytest.mark.parametrize(
    "sizes",
    [
        [(8, 12), (4, 6), (2, 3)],  # finest first, as the encoder's levels
        [(1, 1), (2, 2), (3, 3), (6, 6), (8, 12)],  # as in pyramid pooling
        [(5, 7), (8, 12), (9, 3)],  # sizes that fit nowhere
        [(8, 12)],
    ],
)
@pytest.mark.parametrize(("bias", "norm"), [(True, ""), (False, ""), (False, "BN")])
def test_levels_need_not_be_concatenated(
    sizes: list[tuple[int, int]], bias: bool, norm: str
) -> None:
    channels = [2 + index for index in range(len(sizes))]
    conv = Conv2d(sum(channels), 6, 1, bias=bias, norm=get_norm(norm, 6)).double()
    maps = [
        torch.randn(2, count, *size, dtype=torch.float64, requires_grad=True)
        for count, size in zip(channels, sizes, strict=True)
    ]
    size = torch.Size([8, 12])
    expected = convolve(conv, torch.cat([stretch(part, size) for part in maps], dim=1))
    assert_same_with_gradients(conv, maps, convolve_stretched(conv, maps, size), expected)


def test_the_inputs_are_left_as_they_are() -> None:
    conv = Conv2d(4, 3, 1, activation=F.relu_)
    maps = [torch.randn(1, 2, 3, 3), torch.randn(1, 2, 6, 6)]
    before = [part.clone() for part in maps]
    convolve_stretched(conv, maps, torch.Size([6, 6]))
    torch.testing.assert_close(maps, before)
