import pytest
import torch
from torch import Tensor, nn

from instseg_d2.first_nonfinite import FirstNonFinite


class Reciprocal(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 1 / x


class Root(nn.Module):
    """Finite at 0, where its derivative is not."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


class Net(nn.Module):
    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2, bias=False)
        self.middle = nn.Sequential(nn.ReLU(inplace=True), middle)
        self.last = nn.Linear(2, 2)

    def forward(self, batch: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {"loss": self.last(self.middle(self.first(batch[0]["image"]))).sum()}


def first(model: nn.Module, image: Tensor) -> str:
    batch = [{"image": image, "file_name": "a.jpg"}]
    with FirstNonFinite(model) as watch:
        watch.look_at_batch(batch)
        model(batch)["loss"].backward()
    assert not any(module._forward_hooks for module in model.modules())
    return watch.found


def test_finite_steps_have_none() -> None:
    assert first(Net(nn.Sigmoid()), torch.ones(2)) == ""


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_the_data_comes_first(value: float) -> None:
    assert first(Net(nn.Sigmoid()), torch.tensor([1.0, value])) == "in the data: image a.jpg"


def test_then_the_weights() -> None:
    model = Net(nn.Sigmoid())
    nn.init.constant_(model.last.bias, torch.nan)
    assert first(model, torch.ones(2)) == "before the step, in the weights: last.bias"


def test_then_the_innermost_module_that_it_comes_from() -> None:
    found = first(Net(Reciprocal()), torch.zeros(2))
    assert found == "in the forward pass: what comes out of middle.1 (Reciprocal)"


def test_what_is_made_between_modules_is_told_by_who_makes_and_who_gets_it() -> None:
    class Between(Net):
        def forward(self, batch: list[dict[str, Tensor]]) -> dict[str, Tensor]:
            return {"loss": self.last(self.first(batch[0]["image"]).log()).sum()}

    found = first(Between(nn.Identity()), torch.zeros(2))
    assert found == "in the forward pass: what the model itself gives to its part last (Linear)"


def test_then_the_gradients_in_the_order_of_the_backward_pass() -> None:
    found = first(Net(Root()), torch.zeros(2))
    assert found == "in the backward pass: the gradient of what comes out of middle.0 (ReLU)"
