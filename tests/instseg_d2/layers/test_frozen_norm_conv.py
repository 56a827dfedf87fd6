import copy

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d, get_norm
from torch import nn

from instseg_d2.config import load_config
from instseg_d2.inference.fold_norms import fold_norms
from instseg_d2.layers.frozen_norm_conv import FrozenNormConv2d, join_frozen_norms
from instseg_d2.modeling import build_model


def small_net(*, bias: bool = False) -> nn.Module:
    """Two convolutions with frozen norms that change something, the first with an activation."""
    net = nn.Sequential(
        Conv2d(3, 8, 3, 2, 1, bias=bias, norm=FrozenBatchNorm2d(8), activation=torch.relu),
        Conv2d(8, 6, 3, dilation=2, groups=2, bias=bias, norm=FrozenBatchNorm2d(6)),
    )
    for module in net.modules():
        if isinstance(module, FrozenBatchNorm2d):
            for name, buffer in module.named_buffers():
                buffer.uniform_(0.5, 2.0) if name in ("weight", "running_var") else buffer.normal_()
    return net.double()


@pytest.mark.parametrize("bias", [False, True])
def test_outputs_and_gradients_are_those_of_convolution_and_norm(bias: bool) -> None:
    net = small_net(bias=bias)
    joined = copy.deepcopy(net)
    assert join_frozen_norms(joined) == 2
    results = []
    for each in (net, joined):
        x = torch.linspace(-1, 1, 2 * 3 * 24 * 20, dtype=torch.double).reshape(2, 3, 24, 20)
        x.requires_grad_()
        y = each(x)
        (y**2).sum().backward()
        results.append([y.detach(), x.grad, *(p.grad for p in each.parameters())])
    assert len(results[0]) == (6 if bias else 4)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-10)


def test_names_and_values_of_tensors_stay() -> None:
    net = small_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    parameters = list(net.parameters())
    join_frozen_norms(net)
    after = net.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert all(one is other for one, other in zip(net.parameters(), parameters, strict=True))


def test_a_convolution_in_two_places_stays_one() -> None:
    conv = Conv2d(4, 4, 1, bias=False, norm=FrozenBatchNorm2d(4))
    net = nn.ModuleList([conv, conv, Conv2d(4, 4, 1, bias=False)])
    assert join_frozen_norms(net) == 1
    assert net[0] is net[1]
    assert type(net[2]) is Conv2d


def test_norms_that_learn_are_left_alone() -> None:
    net = nn.ModuleList(Conv2d(4, 32, 1, norm=get_norm(kind, 32)) for kind in ("BN", "GN", ""))
    assert join_frozen_norms(net) == 0


def test_folded_for_inference_it_computes_the_same() -> None:
    net = small_net().eval()
    folded = copy.deepcopy(net)
    join_frozen_norms(folded)
    assert fold_norms(folded) == 2
    x = torch.randn(1, 3, 20, 20, dtype=torch.double)
    torch.testing.assert_close(folded(x), net(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("is_joined", [True, False])
def test_the_config_decides(is_joined: bool, tiny_overrides: list[str]) -> None:
    overrides = [*tiny_overrides, "MODEL.JOIN_FROZEN_NORMS", str(is_joined)]
    model = build_model(load_config("sparseinst/sparse_inst_r50_giam", overrides))
    count = sum(isinstance(module, FrozenNormConv2d) for module in model.modules())
    assert count == (53 if is_joined else 0)
