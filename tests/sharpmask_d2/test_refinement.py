"""The refinement's two forms, its dense part, and the baseline beside it."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from instseg_d2.errors import ConfigError
from sharpmask_d2.heads import resize_masks
from sharpmask_d2.multiscale import Multiscale
from sharpmask_d2.refinement import (
    Refinement,
    build_refinement,
    channel_schedule,
    has_original_form,
    original_state,
    refactored_state,
)
from tests.sharpmask_d2.small_networks import count, make_config

FULL_SIZE = {"skip_channels": (1024, 512, 256, 64), "cells": 10}


@dataclass(frozen=True)
class Case:
    """A small refinement and how many windows it is given."""

    skip_channels: tuple[int, ...] = (5, 4, 3)
    hidden_channels: tuple[int, ...] = (4, 3, 5)
    channels: int = 8
    schedule: str = "halving"
    layout: str = "released"
    upsampling: str = "nearest"
    padding: str = "symmetric"
    cells: int = 3
    windows: int = 2
    dtype: torch.dtype = torch.float64

    def build(self, form: str) -> Refinement:
        options = {key: value for key, value in vars(self).items() if key != "windows"}
        dtype = options.pop("dtype")
        return Refinement(form=form, encoding_dim=6, **options).to(dtype)

    def inputs(self, extra: int = 0) -> tuple[Tensor, list[Tensor]]:
        """Encodings, and features with ``extra`` more cells (of the trunk's) a side."""
        encodings = torch.randn(self.windows, 6, dtype=self.dtype)
        side = self.cells + 2 * extra
        features = [
            torch.randn(self.windows, channels, side * 2**i, side * 2**i, dtype=self.dtype)
            for i, channels in enumerate(self.skip_channels)
        ]
        return encodings, features


@st.composite
def cases(draw: st.DrawFn) -> Case:
    steps = draw(st.integers(1, 4))
    widths = st.lists(st.integers(1, 6), min_size=steps, max_size=steps)
    return Case(
        skip_channels=tuple(draw(widths)),
        hidden_channels=tuple(draw(widths)),
        channels=2**steps * draw(st.integers(1, 2)),
        schedule=draw(st.sampled_from(["halving", "constant"])),
        layout=draw(st.sampled_from(["released", "paper"])),
        upsampling=draw(st.sampled_from(["nearest", "bilinear"])),
        padding=draw(st.sampled_from(["symmetric", "reflect", "zeros"])),
        cells=draw(st.integers(2, 4)),
        windows=draw(st.integers(1, 3)),
        dtype=draw(st.sampled_from([torch.float32, torch.float64])),
    )


def gradients(
    module: Refinement, encodings: Tensor, features: list[Tensor], direction: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Masks, and their gradient along a direction by every input and parameter."""
    inputs = [value.clone().requires_grad_() for value in (encodings, *features)]
    masks = module(inputs[0], module.skips(inputs[1:]))
    (masks * direction).sum().backward()
    found = {f"input {index}": value.grad for index, value in enumerate(inputs)}
    found |= {name: value.grad for name, value in module.named_parameters()}
    return masks, found


def require_close(
    actual: Tensor, expected: Tensor, name: str = "", largest: float | None = None
) -> None:
    """Relative 1e-5 in float32, 1e-10 in float64, of the largest value, which may be another's."""
    limit = 1e-5 if actual.dtype == torch.float32 else 1e-10
    error = (actual - expected).abs().max()
    scale = expected.abs().max() if largest is None else largest
    assert error <= limit * scale, (name, error)


def largest_of_layers(gradients: dict[str, Tensor]) -> dict[str, float]:
    """For the name of each gradient, the largest value of its layer's: a bias's is a sum over cells
    that may cancel out, and what is left is only as exact as they are."""
    layers = {name: name.rpartition(".")[0] or name for name in gradients}
    largest: dict[str, float] = {}
    for name, layer in layers.items():
        largest[layer] = max(largest.get(layer, 0.0), float(gradients[name].abs().max()))
    return {name: largest[layer] for name, layer in layers.items()}


@settings(max_examples=60)
@given(case=cases(), seed=st.integers(0, 2**16))
def test_both_forms_are_the_same_function(case: Case, seed: int) -> None:
    torch.manual_seed(seed)
    original, refactored = case.build("original"), case.build("refactored")
    refactored.load_state_dict(refactored_state(original.state_dict()), strict=True)
    encodings, features = case.inputs()
    side = case.cells * 2 ** len(features)
    direction = torch.randn(case.windows, side, side, dtype=case.dtype)
    masks, by_original = gradients(original, encodings, features, direction)
    same_masks, by_refactored = gradients(refactored, encodings, features, direction)
    assert masks.shape == (case.windows, side, side)
    require_close(same_masks, masks)
    largest = largest_of_layers(by_original)
    for name, gradient in by_original.items():
        if not name.endswith(("mix.weight", "mix.bias")):
            require_close(by_refactored[name], gradient, name, largest[name])
            continue
        step, kind = name.split("mix.")
        parts = [by_refactored[f"{step}{part}.{kind}"] for part in ("skip_out", "vertical_out")]
        if kind == "weight":
            require_close(torch.cat(parts, dim=1), gradient, name, largest[name])
        else:
            for part in parts:  # both biases are added, so each has the whole gradient
                require_close(part, gradient, name, largest[name])


@pytest.mark.parametrize("layout", ["released", "paper"])
def test_weights_map_back_and_forth(layout: str) -> None:
    case = Case(layout=layout)
    refactored = case.build("refactored")
    with torch.no_grad():
        for step in refactored.steps:  # biases in both parts
            step.vertical_out.bias.normal_()
    original = case.build("original")
    original.load_state_dict(original_state(refactored.state_dict()), strict=True)
    encodings, features = case.inputs()
    require_close(
        original(encodings, original.skips(features)),
        refactored(encodings, refactored.skips(features)),
    )
    state = original.state_dict()
    for name, value in original_state(refactored_state(state)).items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)


def test_the_map_keeps_the_rest_of_a_model_and_its_argument() -> None:
    state = {f"refinement.{k}": v for k, v in Case().build("original").state_dict().items()}
    state["head.mask.weight"] = torch.ones(3)
    copies = {name: value.clone() for name, value in state.items()}
    mapped = refactored_state(state)
    expected = {f"refinement.{key}" for key in Case().build("refactored").state_dict()}
    assert set(mapped) == expected | {"head.mask.weight"}
    mapped["refinement.steps.0.skip_out.weight"].zero_()
    for name, value in copies.items():
        assert torch.equal(state[name], value), name


def identity_convolutions(module: nn.Module) -> None:
    """Each output channel becomes the sum of the inputs, at the same place."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)
            conv.weight.data[:, :, 1, 1] = 1


@pytest.mark.parametrize("form", ["original", "refactored"])
def test_two_steps_by_hand(form: str) -> None:
    module = Refinement(
        skip_channels=(1, 1), hidden_channels=(1, 1), cells=2, encoding_dim=1, form=form,
        layout="paper", schedule="constant", channels=1,
    )  # fmt: skip
    identity_convolutions(module)
    module.project.weight.data = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    nn.init.zeros_(module.project.bias)
    deep = torch.tensor([[[[10.0, -10.0], [0.0, 0.0]]]])
    shallow = torch.ones(1, 1, 4, 4)
    masks = module(torch.tensor([[-1.0]]), module.skips([deep, shallow]))
    # M_1 is -(1 2; 3 4); with ReLU(deep), ReLU: 9 0; 0 0; each cell doubled; plus 1.
    expected = torch.ones(8, 8)
    expected[:4, :4] = 10
    torch.testing.assert_close(masks[0], expected)


@pytest.mark.parametrize("schedule", ["halving", "constant"])
@pytest.mark.parametrize("form", ["original", "refactored"])
@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_sizes_and_widths_grow_as_scheduled(schedule: str, form: str, upsampling: str) -> None:
    case = replace(Case(), schedule=schedule, upsampling=upsampling)
    module = case.build(form)
    encodings, features = case.inputs()
    states = [module.initial(encodings)]
    for step in module.steps:
        step.register_forward_hook(lambda _, args, out: states.append(out))
    assert module(encodings, module.skips(features)).shape == (2, 24, 24)
    widths = [8, 4, 2, 1] if schedule == "halving" else [8] * 4
    assert [state.shape[1] for state in states] == widths
    assert [state.shape[2] for state in states] == [3, 3, 6, 12]


def cut(maps: list[Tensor], y: int, x: int, cells: int) -> list[Tensor]:
    """The window of ``cells`` cells of the deepest map, from (y, x), in every map."""
    return [
        value[..., y * 2**i : (y + cells) * 2**i, x * 2**i : (x + cells) * 2**i]
        for i, value in enumerate(maps)
    ]


@pytest.mark.parametrize("form", ["original", "refactored"])
@pytest.mark.parametrize("layout", ["released", "paper"])
@pytest.mark.parametrize("padding", ["symmetric", "reflect", "zeros"])
def test_dense_skips_are_those_of_each_window(form: str, layout: str, padding: str) -> None:
    """A skip's cell depends on 3 cells around it, at most: 3 convolutions of 3x3. So the dense map,
    cut to a window, is what the window gives together with 3 cells around it; and what the window
    gives alone, but for 3 cells along its edge."""
    case = Case(cells=4, windows=1, layout=layout, padding=padding)
    module = case.build(form)
    encodings, features = case.inputs(extra=5)  # 14 cells
    dense = module.skips(features)
    y, x, around = 4, 5, 3
    wide = cut(features, y - around, x - around, 4 + 2 * around)
    with_surroundings = cut(module.skips(wide), around, around, 4)
    alone = module.skips(cut(features, y, x, 4))
    for of_map, wider, narrow in zip(cut(dense, y, x, 4), with_surroundings, alone, strict=True):
        require_close(wider, of_map)
        if of_map.shape[-1] > 6:
            require_close(narrow[..., 3:-3, 3:-3], of_map[..., 3:-3, 3:-3])
        assert not torch.allclose(narrow, of_map)
    masks = module(encodings, cut(dense, y, x, 4))
    require_close(masks, module(encodings, with_surroundings))


def test_windows_do_not_see_each_other() -> None:
    case = Case(windows=3)
    module = case.build("refactored")
    encodings, features = case.inputs()
    masks = module(encodings, module.skips(features))
    one = [value[1:2] for value in features]
    torch.testing.assert_close(masks[1:2], module(encodings[1:2], module.skips(one)))


@pytest.mark.parametrize("name", ["Refinement", "Multiscale"])
@pytest.mark.parametrize("upsampling", ["nearest", "bilinear"])
def test_no_window_gives_no_mask_and_a_zero_gradient(name: str, upsampling: str) -> None:
    cfg = make_config(overrides={
        "MODEL.SHARP_MASK.REFINEMENT.NAME": name,
        "MODEL.SHARP_MASK.REFINEMENT.UPSAMPLING": upsampling,
        "MODEL.SHARP_MASK.WINDOW_SIZE": 32,
        "MODEL.SHARP_MASK.HEAD.ENCODING_DIM": 6,
    })  # fmt: skip
    module = build_refinement(cfg, [5, 4, 3, 2], 2)
    features = [torch.zeros(0, c, 2**i, 2**i) for i, c in enumerate([5, 4, 3, 2], start=1)]
    masks = module(torch.zeros(0, 6), module.skips(features), torch.zeros(0, 7, 7))
    assert masks.shape == (0, 32, 32)
    masks.sum().backward()
    assert all(not value.grad.any() for value in module.parameters())


def weights_by_hand(last_hidden: int) -> int:
    """FAIR's layers: M_1, per step three horizontal and two vertical convolutions, then 2 -> 1."""
    total = 512 * 32 * 100
    for feature, hidden, k in ((1024, 64, 32), (512, 64, 16), (256, 64, 8), (64, last_hidden, 4)):
        total += 9 * (feature * hidden + hidden * k + k * k // 2)
        total += 9 * (k * k + k * k // 2)
    return total + 9 * 2


@pytest.mark.parametrize("last_hidden", [32, 64])
def test_full_size_by_hand(last_hidden: int) -> None:
    with torch.device("meta"):
        module = Refinement(**FULL_SIZE, hidden_channels=(64, 64, 64, last_hidden))
        original = Refinement(
            **FULL_SIZE, hidden_channels=(64, 64, 64, last_hidden), form="original"
        )
    weights = [value for name, value in module.named_parameters() if name.endswith("weight")]
    assert sum(value.numel() for value in weights) == weights_by_hand(last_hidden)
    assert 2.7e6 < count(module) < 3e6
    second_biases = 16 + 8 + 4 + 2
    assert count(original) == count(module) - second_biases


def small_multiscale(**options: Any) -> Multiscale:
    small = {
        "skip_channels": (5, 4), "hidden_channels": (3, 3), "channels": 4, "cells": 3,
        "window_size": 12,
    }  # fmt: skip
    return Multiscale(**{**small, **options})


@pytest.mark.parametrize("layout", ["released", "paper"])
def test_the_baseline_averages_independent_predictions(layout: str) -> None:
    module = small_multiscale(layout=layout)
    features = [torch.randn(2, 5, 3, 3), torch.randn(2, 4, 6, 6)]
    coarse = torch.randn(2, 7, 7)
    skips = module.skips(features)
    assert [value.shape[1] for value in skips] == [1, 1]
    masks = module(torch.zeros(2, 6), skips, coarse)
    resized = [
        F.interpolate(value, (12, 12), mode="bilinear", align_corners=False)[:, 0]
        for value in skips
    ]
    expected = (resize_masks(coarse, 12) + resized[0] + resized[1]) / 3
    torch.testing.assert_close(masks, expected)
    # Independent: the deep level's prediction does not move with the shallow feature.
    changed = module.skips([features[0], features[1] + 1])
    assert torch.equal(changed[0], skips[0])
    assert not torch.equal(changed[1], skips[1])


def test_schedules() -> None:
    assert channel_schedule(32, 4, "halving") == [32, 16, 8, 4, 2]
    assert channel_schedule(6, 3, "constant") == [6, 6, 6, 6]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"channels": 24}, r"CHANNELS is 24.*halving and 4 steps .* positive multiple of 16"),
        ({"channels": 0}, r"CHANNELS is 0.*positive multiple of 16"),
        ({"channels": 0, "schedule": "constant"}, r"CHANNELS is 0.*positive multiple of 1$"),
        ({"cells": 1, "padding": "reflect"}, r"1 x 1 cells.*PADDING reflect.*WINDOW_SIZE"),
        ({"form": "summed"}, r"FORM is 'summed'.*original, refactored"),
        ({"layout": "fair"}, r"LAYOUT is 'fair'.*released, paper"),
        ({"schedule": "doubling"}, r"SCHEDULE is 'doubling'.*constant, halving"),
        ({"upsampling": "bicubic"}, r"UPSAMPLING is 'bicubic'.*nearest, bilinear"),
        ({"padding": "same"}, r"PADDING is 'same'"),
        ({"hidden_channels": (64, 64)}, r"HORIZONTAL_CHANNELS must have 4 entries.*it has 2"),
    ],
)
def test_impossible_settings_name_the_key(options: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said), torch.device("meta"):
        Refinement(**{**FULL_SIZE, **options})


def test_the_baseline_asks_for_no_more_halving_than_it_does() -> None:
    small_multiscale(channels=2)  # 2, 1
    small_multiscale(channels=7, layout="paper")  # not used
    with pytest.raises(ConfigError, match=r"CHANNELS is 3.*1 steps .* multiple of 2"):
        small_multiscale(channels=3)
    with pytest.raises(ConfigError, match=r"1 x 1 cells.*WINDOW_SIZE"):
        small_multiscale(cells=1, padding="reflect")


@pytest.mark.parametrize("mode", ["symmetric", "zeros"])
def test_a_window_of_one_cell_can_be_padded_otherwise(mode: str) -> None:
    case = Case(cells=1, padding=mode)
    module = case.build("refactored")
    encodings, features = case.inputs()
    assert module(encodings, module.skips(features)).shape == (2, 8, 8)


def test_the_original_form_is_told_by_its_names() -> None:
    for form, told in (("original", True), ("refactored", False)):
        names = [f"refinement.{name}" for name in Case().build(form).state_dict()]
        assert has_original_form([*names, "head.mask.weight"]) == told
    assert not has_original_form([])


def test_an_unknown_refinement_is_named() -> None:
    cfg = make_config(overrides={"MODEL.SHARP_MASK.REFINEMENT.NAME": "Refine"})
    with pytest.raises(ConfigError, match=r"NAME is 'Refine'.*known are Refinement"):
        build_refinement(cfg, [1], 2)
