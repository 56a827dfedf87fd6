import copy

import numpy as np
import pytest
import torch
from detectron2.layers import Conv2d, get_norm
from torch import nn
from torch.nn import functional as F

from instseg_d2.errors import ConfigError, DataError
from sharpmask_d2.padding import PADDING_MODES, pad, set_padding_mode

NUMPY_MODES = {"symmetric": "symmetric", "reflect": "reflect", "zeros": "constant"}

every_mode = pytest.mark.parametrize("mode", PADDING_MODES)


@every_mode
@pytest.mark.parametrize("amount", [0, 1, 3, (2, 0), (0, 1), (1, 3)])
def test_padding_is_numpys(mode: str, amount: int | tuple[int, int]) -> None:
    x = torch.randn(2, 3, 4, 5)
    vertical, horizontal = (amount, amount) if isinstance(amount, int) else amount
    widths = ((0, 0), (0, 0), (vertical, vertical), (horizontal, horizontal))
    expected = np.pad(x.numpy(), widths, mode=NUMPY_MODES[mode])
    np.testing.assert_array_equal(pad(x, amount, mode).numpy(), expected)


@every_mode
def test_padding_has_the_right_gradient(mode: str) -> None:
    x = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pad(x, (3, 2), mode), x)


@every_mode
def test_no_image_is_padded_to_none(mode: str) -> None:
    assert pad(torch.zeros(0, 2, 4, 5), 3, mode).shape == (0, 2, 10, 11)


@pytest.mark.parametrize(
    ("mode", "amount", "fits", "too_small"),
    [
        ("symmetric", 3, (3, 3), (2, 9)),
        ("symmetric", 1, (1, 1), (0, 5)),
        ("reflect", 3, (4, 4), (9, 3)),
        ("reflect", 1, (2, 2), (1, 5)),
        ("reflect", (0, 1), (1, 2), (5, 1)),
    ],
)
def test_a_map_smaller_than_its_padding_is_refused(
    mode: str, amount: int | tuple[int, int], fits: tuple[int, int], too_small: tuple[int, int]
) -> None:
    pad(torch.zeros(1, 1, *fits), amount, mode)
    size = f"{too_small[0]} x {too_small[1]}"
    with pytest.raises(DataError, match=f"map of {size} cells is too small.*PADDING {mode}"):
        pad(torch.zeros(1, 1, *too_small), amount, mode)


def test_an_unknown_mode_is_named() -> None:
    known = r"PADDING is 'mirror'.*symmetric, reflect, zeros"
    with pytest.raises(ConfigError, match=known):
        pad(torch.zeros(1, 1, 5, 5), 1, "mirror")
    with pytest.raises(ConfigError, match=known):
        set_padding_mode(nn.Sequential(), "mirror")


class Network(nn.Module):
    """torch's and Detectron2's convolutions, with everything that these may have."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Conv2d(3, 4, 7, padding=3, stride=2, norm=get_norm("BN", 4), bias=False)
        self.rest = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=1, groups=2),
            Conv2d(4, 6, 3, padding=2, dilation=2, activation=F.relu),
            nn.Conv2d(6, 2, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.rest(self.first(x))


@every_mode
def test_every_padded_convolution_follows_the_mode(mode: str) -> None:
    network = Network().eval()
    network.first.norm.running_mean.normal_()
    plain = copy.deepcopy(network)
    set_padding_mode(network, mode)
    x = torch.randn(2, 3, 12, 10)
    for conv, amount in ((plain.first, 3), (plain.rest[0], 1), (plain.rest[1], 2)):
        conv.register_forward_pre_hook(lambda _, args, a=amount: pad(args[0], a, mode))
        conv.padding = (0, 0)
    torch.testing.assert_close(network(x), plain(x))


def test_names_values_and_unpadded_convolutions_stay() -> None:
    network = Network()
    before, last = network.state_dict(), network.rest[2]
    parameters = {id(value) for value in network.parameters()}
    set_padding_mode(network, "symmetric")
    assert list(network.state_dict()) == list(before)
    assert {id(value) for value in network.parameters()} == parameters
    assert network.rest[2] is last


def test_the_mode_can_be_changed_and_taken_back() -> None:
    network = Network().eval()
    x = torch.randn(1, 3, 12, 12)
    zeros = network(x)
    set_padding_mode(network, "symmetric")
    symmetric = network(x)
    set_padding_mode(network, "reflect")
    assert not torch.allclose(network(x), symmetric)
    set_padding_mode(network, "zeros")
    torch.testing.assert_close(network(x), zeros)
    assert not torch.allclose(symmetric, zeros)
