import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from instseg_d2.benchmark.memory import peak_memory
from instseg_d2.config import load_config
from instseg_d2.layers.recompute import recompute_first_stages
from instseg_d2.modeling import build_model


@pytest.fixture
def backbone(tiny_overrides: list[str]) -> Any:
    """A slim ResNet-50 that keeps everything."""
    return _backbone(tiny_overrides)


def _backbone(overrides: list[str], *more: str) -> Any:
    overrides = [*overrides, "MODEL.RECOMPUTE_FIRST_STAGES", "False", *more]
    return build_model(load_config("sparseinst/sparse_inst_r50_giam", overrides)).backbone.train()


def _gradients(backbone: nn.Module) -> list[Tensor]:
    x = torch.linspace(-1, 1, 3 * 64 * 96).reshape(1, 3, 64, 96)
    backbone.zero_grad()
    torch.stack([value.square().mean() for value in backbone(x).values()]).sum().backward()
    return [parameter.grad for parameter in backbone.parameters()]


def test_gradients_are_the_same_to_the_bit(backbone: Any) -> None:
    before = _gradients(backbone)
    names = list(backbone.state_dict())
    assert recompute_first_stages(backbone) == ["stem", "res2"]
    after = _gradients(backbone)
    assert list(backbone.state_dict()) == names
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_it_takes_less_memory(backbone: Any) -> None:
    x = torch.rand(2, 3, 256, 256)

    def step() -> None:
        torch.stack([value.mean() for value in backbone(x).values()]).sum().backward()

    step()  # gradients are there from now on
    before = peak_memory(step, torch.device("cpu"))
    recompute_first_stages(backbone)
    assert peak_memory(step, torch.device("cpu")) < 0.8 * before


def test_stages_run_twice_only_where_gradients_are_wanted(
    backbone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recompute_first_stages(backbone)
    calls = []
    kind = type(backbone.stem)
    forward = kind.forward
    monkeypatch.setattr(kind, "forward", lambda self, x: calls.append(1) or forward(self, x))
    _gradients(backbone)
    assert len(calls) == 2
    with torch.no_grad():
        backbone(torch.zeros(1, 3, 64, 64))
    assert len(calls) == 3
    for parameter in backbone.stem.parameters():
        parameter.requires_grad_(False)
    _gradients(backbone)
    assert len(calls) == 4


def test_norms_that_learn_see_each_batch_once(tiny_overrides: list[str]) -> None:
    backbone = _backbone(tiny_overrides, "MODEL.RESNETS.NORM", "BN")
    assert recompute_first_stages(backbone) == []


def test_a_copy_has_stages_of_its_own(backbone: Any) -> None:
    recompute_first_stages(backbone)
    twin = copy.deepcopy(backbone)
    nn.init.zeros_(backbone.stem.conv1.weight)
    assert all(gradient.abs().sum() > 0 for gradient in _gradients(twin))


def test_the_config_asks_for_it(tiny_overrides: list[str]) -> None:
    model = build_model(load_config("sparseinst/sparse_inst_r50_giam", tiny_overrides))
    assert {"stem", "res2"} == {
        name for name, module in model.backbone.named_children() if "forward" in vars(module)
    }
