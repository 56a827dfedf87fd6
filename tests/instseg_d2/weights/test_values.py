import logging

import pytest
import torch
from torch import nn

from instseg_d2.checkpoint import InstSegCheckpointer
from instseg_d2.errors import WeightsError
from instseg_d2.weights.values import is_finite
from tests.small_model import Model, save_pth


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precision_is_converted_and_noted(tmp_path, caplog, dtype):
    caplog.set_level(logging.INFO)
    source, target = Model(), Model()
    state = {name: value.to(dtype) for name, value in source.state_dict().items()}
    InstSegCheckpointer(target).load(save_pth(tmp_path / "a.pth", state))
    assert all(value.dtype == torch.float32 for value in target.state_dict().values())
    torch.testing.assert_close(target.head.weight, source.head.weight, atol=0.01, rtol=0.01)
    assert f"Converting 13 tensors of the file from {dtype} to torch.float32" in caplog.text


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_numbers_of_another_kind(tmp_path, dtype):
    state = Model().state_dict()
    state["backbone.1.bias"] = state["backbone.1.bias"].to(dtype)
    with pytest.raises(WeightsError, match=rf"tensor 'backbone\.1\.bias' is of .*{dtype}"):
        InstSegCheckpointer(Model()).load(save_pth(tmp_path / "a.pth", state))


def test_floating_point_where_the_model_counts(tmp_path):
    model = nn.ModuleDict({"backbone": nn.BatchNorm2d(2)})
    model.register_buffer("steps", torch.tensor(3))
    state = {name: value.float() for name, value in model.state_dict().items()}
    path = save_pth(tmp_path / "a.pth", state)
    # The counter of the normalisation, on which nothing depends, is let through.
    with pytest.raises(WeightsError, match=r"tensor 'steps' is of floating-point .*torch\.int64"):
        InstSegCheckpointer(model).load(path)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_warned_of(tmp_path, caplog, number):
    state = Model().state_dict()
    state["backbone.2.weight"][1, 2] = number
    state["head.bias"][0] = number
    InstSegCheckpointer(Model()).load(save_pth(tmp_path / "a.pth", state))
    warnings = [entry for entry in caplog.records if "NaN or infinite" in entry.getMessage()]
    assert [entry.levelno for entry in warnings] == [logging.WARNING]
    assert "2 tensors" in warnings[0].getMessage()
    assert "'backbone.2.weight'" in warnings[0].getMessage()


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        (torch.tensor([1e38] * 100), True),  # only their sum is infinite
        (torch.tensor([60000.0] * 10).half(), True),
        (torch.tensor([float("inf"), -float("inf")]), False),
        (torch.tensor([1.0, float("nan")]).to(torch.float8_e4m3fn), False),
        (torch.tensor([2**62, 2**62]), True),
        (torch.zeros(0), True),
    ],
)
def test_finite_numbers(numbers, expected):
    assert is_finite(numbers) is expected
