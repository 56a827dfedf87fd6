"""Gradients of several batches add up to those of one: the instance normaliser, empty images."""

import pytest
import torch
from detectron2.structures import BitMasks, Instances

from instseg_d2.config import load_config
from instseg_d2.modeling import build_model
from instseg_d2.solver import build_optimizer
from tests.accumulated_steps import train_in_parts

#: Instances of the four images of each of three steps. In the second the first half has none; in
#: the third no image has; 12 instances are more than the model has maps for.
COUNTS = ((1, 3, 0, 5), (0, 0, 12, 1), (0, 0, 0, 0))


def batches(dtype: torch.dtype) -> list[list[dict]]:
    generator = torch.Generator().manual_seed(3)
    result = []
    for counts in COUNTS:
        inputs = []
        for count in counts:
            instances = Instances((64, 96))
            instances.gt_classes = torch.randint(6, (count,), generator=generator)
            instances.gt_masks = BitMasks(torch.rand(count, 64, 96, generator=generator) > 0.5)
            image = torch.randint(256, (3, 64, 96), generator=generator).to(dtype)
            inputs.append({"image": image, "instances": instances})
        result.append(inputs)
    return result


def trained(overrides: list[str], dtype: torch.dtype, parts: int, *more: str) -> dict:
    """The parameters after three steps of four images, which come in so many parts."""
    torch.manual_seed(0)
    cfg = load_config("sparseinst/sparse_inst_r50_giam", [*overrides, *more])
    model = build_model(cfg).to(dtype)
    return train_in_parts(model, batches(dtype), build_optimizer(cfg, model), parts)


CLIPPED = [
    *("SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "full_model"),
    *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.1"),
]
SGD = ["SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", "1e-6"]


@pytest.mark.parametrize("more", [SGD, CLIPPED], ids=["SGD", "AdamW, clipped"])
@pytest.mark.parametrize("parts", [2, 4])
def test_parameters_are_those_of_one_large_batch(
    tiny_overrides: list[str], more: list[str], parts: int
) -> None:
    one = trained(tiny_overrides, torch.float64, 1, *more)
    several = trained(tiny_overrides, torch.float64, parts, *more)
    start = trained(tiny_overrides, torch.float64, 1, *more, "SOLVER.BASE_LR", "0.0")
    name = "decoder.inst_branch.cls_score.weight"
    assert not torch.allclose(one[name], start[name], rtol=1e-4)
    torch.testing.assert_close(several, one, rtol=1e-6, atol=1e-9)


def test_parameters_in_float32(tiny_overrides: list[str]) -> None:
    one, several = (trained(tiny_overrides, torch.float32, parts, *SGD) for parts in (1, 2))
    torch.testing.assert_close(several, one, rtol=1e-5, atol=1e-6)


def test_the_mean_of_two_halves_would_be_another_gradient(tiny_overrides: list[str]) -> None:
    """So the tests above can fail: the same, with each half normalised by itself."""
    cfg = load_config("sparseinst/sparse_inst_r50_giam", tiny_overrides)
    model = build_model(cfg).train()
    inputs = batches(torch.float32)[1]
    halves = [inputs[:2], inputs[2:]]
    with torch.no_grad():
        whole = model(inputs)
        means = {name: sum(model(half)[name] for half in halves) / 2 for name in whole}
        totals = model.step_totals(halves)
        sums = {name: sum(model(half, totals)[name] for half in halves) for name in whole}
    for name, value in whole.items():
        torch.testing.assert_close(sums[name], value, rtol=1e-4, atol=1e-5)
    assert abs(means["loss_ce"] - whole["loss_ce"]) > 0.3 * whole["loss_ce"]
