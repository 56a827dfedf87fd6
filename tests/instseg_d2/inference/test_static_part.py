"""Half precision, compilation and recordings of what depends on the size alone."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from instseg_d2.errors import ConfigError
from instseg_d2.inference.static_part import (
    CudaGraphs,
    StaticPart,
    compiled,
    half_precision,
    halve_weights,
    map_tensors,
    static_part,
    wrap,
)


class Pair(NamedTuple):
    first: Tensor
    second: Tensor


class Model(nn.Module):
    """Declares what is static."""

    static_part = StaticPart("network", ("backbone",))

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
        self.head = nn.Linear(4, 2)

    def network(self, images: Tensor) -> Tensor:
        return self.backbone(images)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images).mean()


def doubled(network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda images: 2 * network(images)


def test_a_declared_part_comes_before_the_backbone() -> None:
    model = Model()
    assert static_part(model) == Model.static_part
    model.static_part = None
    assert static_part(model) == StaticPart("backbone", ("backbone",))
    assert static_part(model.head) is None


@pytest.mark.parametrize("name", ["network", "backbone"])
def test_only_this_model_is_wrapped(name: str) -> None:
    model, other = Model().eval(), Model().eval()
    other.load_state_dict(model.state_dict())
    wrap(model, StaticPart(name, ("backbone",)), doubled)
    images = torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(model(images), 2 * other(images))
    assert set(model.state_dict()) == set(other.state_dict())


def test_wrappers_add_up() -> None:
    model = Model().eval()
    images = torch.randn(1, 3, 5, 5)
    expected = 4 * model(images)
    for _ in range(2):
        wrap(model, Model.static_part, doubled)
    torch.testing.assert_close(model(images), expected)


def test_half_precision_gives_float32() -> None:
    model = Model().eval()
    images = torch.randn(2, 3, 6, 6)
    expected = model.network(images)
    seen = []
    model.backbone[0].register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    halve_weights(model, Model.static_part, torch.bfloat16)
    actual = half_precision(model.network, torch.bfloat16)(images)
    assert (seen, actual.dtype) == ([torch.bfloat16], torch.float32)
    torch.testing.assert_close(actual, expected, rtol=0.02, atol=0.02)
    assert not torch.equal(actual, expected)


def test_only_the_static_parts_weights_are_halved() -> None:
    model = Model()
    halve_weights(model, Model.static_part, torch.bfloat16)
    halved = {name for name, value in model.named_parameters() if value.dtype == torch.bfloat16}
    assert halved == {"backbone.0.weight", "backbone.0.bias"}  # nor is the norm


def test_tensors_are_found_in_containers() -> None:
    one = torch.ones(())
    value = {"a": [one, "text"], "b": (one, None), "c": Pair(one, one)}
    two = one + 1
    expected = {"a": [two, "text"], "b": (two, None), "c": Pair(two, two)}
    mapped = map_tensors(lambda tensor: tensor + 1, value)
    assert mapped == expected
    assert isinstance(mapped["c"], Pair)


def test_a_compiler_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(network: object, **options: object) -> Callable[[Tensor], Tensor]:
        def run(images: Tensor) -> Tensor:
            raise torch._dynamo.exc.BackendCompilerFailed(fail, RuntimeError("no compiler"), None)

        return run

    monkeypatch.setattr(torch, "compile", fail)
    with pytest.raises(ConfigError, match=r"MODEL\.INFERENCE\.COMPILE.*no compiler"):
        compiled(Model().network)(torch.zeros(1, 3, 5, 5))


@pytest.mark.slow
def test_compiled_is_equal_for_each_size() -> None:
    model = Model().eval()
    fast = compiled(model.network)
    with torch.no_grad():
        for size in ((5, 5), (7, 4), (5, 5)):
            images = torch.randn(2, 3, *size)
            torch.testing.assert_close(fast(images), model.network(images))


def test_on_the_cpu_nothing_is_recorded() -> None:
    graphs = CudaGraphs(Model().eval().network)
    images = torch.randn(1, 3, 5, 5)
    torch.testing.assert_close(graphs(images), graphs.network(images))


@pytest.mark.needs_cuda
def test_recordings_are_equal_and_their_outputs_stay() -> None:
    """Of more sizes than are kept, each image twice; no later replay changes an earlier result."""
    model = Model().eval().requires_grad_(False).cuda()
    graphs = CudaGraphs(lambda images: {"out": model.network(images)}, max_sizes=2)
    images = [torch.randn(1, 3, side, 5, device="cuda") for side in (5, 6, 7, 5, 6, 7, 7)]
    outputs = [graphs(image)["out"] for image in images]
    for image, output in zip(images, outputs, strict=True):
        torch.testing.assert_close(output, model.network(image), rtol=1e-3, atol=1e-3)
    assert len(graphs._recordings) == 2
