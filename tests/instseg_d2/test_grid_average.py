import pytest
import torch
from torch import nn

from instseg_d2.layers.grid_average import GridAverage, replace_adaptive_pooling


@pytest.mark.parametrize("cells", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("size", [(6, 6), (7, 13), (1, 2), (20, 5)])
def test_it_is_adaptive_pooling(cells, size):
    x = torch.randn(2, 3, *size)
    assert torch.allclose(GridAverage(cells)(x), nn.AdaptiveAvgPool2d(cells)(x), atol=1e-6)


def test_half_precision():
    x = torch.rand(1, 2, 9, 11)
    result = GridAverage(3)(x.half())
    assert result.dtype == torch.float16
    assert torch.allclose(result.float(), nn.AdaptiveAvgPool2d(3)(x), atol=2e-3)


def test_it_takes_the_place_of_adaptive_pooling():
    net = nn.Sequential(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.ReLU()), nn.AdaptiveAvgPool2d(3))
    x = torch.randn(1, 2, 8, 8)
    before = net(x)
    replace_adaptive_pooling(net)
    assert not any(isinstance(module, nn.AdaptiveAvgPool2d) for module in net.modules())
    assert torch.allclose(net(x), before, atol=1e-6)
