"""Instances with their activation maps, and pictures of them, on tiny models."""

import numpy as np
import pytest
import torch

from instseg_d2.config import load_config
from instseg_d2.errors import ConfigError
from instseg_d2.inference import InferenceOptions, prepare_for_inference
from instseg_d2.modeling import build_model
from sparseinst_d2.activation_maps import draw_activation_maps, heat_map, instances_with_maps

DECODERS = {"BaseIAMDecoder": 1, "GroupIAMDecoder": 4, "GroupIAMSoftDecoder": 4}
SIZE = (50, 90)


def tiny_model(overrides: list[str], decoder: str = "GroupIAMDecoder") -> torch.nn.Module:
    key = "MODEL.SPARSE_INST.DECODER.NAME"
    cfg = load_config("sparseinst/sparse_inst_r50_base", [*overrides, key, decoder])
    model = build_model(cfg).eval()
    # Untrained masks are flat, and maps all alike.
    torch.nn.init.normal_(model.decoder.inst_branch.mask_kernel.bias)
    torch.nn.init.normal_(model.decoder.inst_branch.iam_conv.weight)
    torch.nn.init.normal_(model.decoder.inst_branch.cls_score.weight)
    return model


def an_input() -> dict:
    image = torch.randint(256, (3, *SIZE), dtype=torch.uint8)
    return {"image": image, "height": 2 * SIZE[0], "width": 2 * SIZE[1]}


@pytest.mark.parametrize("decoder", DECODERS)
def test_the_instances_are_those_of_the_model_and_each_has_its_own_maps(
    tiny_overrides: list[str], decoder: str
) -> None:
    model, inputs = tiny_model(tiny_overrides, decoder), an_input()
    with torch.no_grad():
        expected = model([inputs])[0]["instances"]
    instances = instances_with_maps(model, inputs)
    assert len(instances) == len(expected) > 1
    assert torch.equal(instances.scores, expected.scores)
    assert torch.equal(instances.pred_masks, expected.pred_masks)
    maps = instances.activation_maps
    assert maps.shape == (len(instances), DECODERS[decoder], 7, 12)  # 1/8 of 50 x 90, rounded up
    assert (maps >= 0).all()
    assert (maps <= 1).all()


def test_maps_belong_to_their_instances_when_some_are_dropped(tiny_overrides: list[str]) -> None:
    """Map g*N + k is the g-th of prediction k; of these the detection limit keeps a few."""
    model = tiny_model(tiny_overrides)
    branch = model.decoder.inst_branch
    torch.nn.init.zeros_(branch.iam_conv.weight)
    codes = torch.linspace(-3, 3, 4 * branch.num_masks)
    branch.iam_conv.bias.data.copy_(codes)
    inputs = an_input()
    everything = instances_with_maps(model, inputs)
    by_prediction = codes.sigmoid().view(4, branch.num_masks).T
    torch.testing.assert_close(everything.activation_maps.mean((2, 3)), by_prediction)
    options = model.postprocess_options
    model.postprocess_options = type(options)(max_detections=3)
    kept = instances_with_maps(model, inputs)
    best = everything.scores.topk(3).indices.sort().values
    torch.testing.assert_close(kept.activation_maps, everything.activation_maps[best])


def test_maps_cover_the_image_without_its_padding(tiny_overrides: list[str]) -> None:
    """50 x 90 pixels are padded to 64 x 96. A map that is the column's number ends where the image
    does."""
    model = tiny_model(tiny_overrides, "BaseIAMDecoder")
    branch = model.decoder.inst_branch
    ramp = torch.linspace(0.5, 11.5, 12) / 12  # at the middle of each of the 12 columns
    forward = branch.forward

    def with_ramp(feature: torch.Tensor) -> tuple:
        *heads, logits = forward(feature)
        return *heads, torch.logit(ramp).expand_as(logits)

    branch.forward = with_ramp
    maps = instances_with_maps(model, an_input()).activation_maps
    columns = (torch.arange(12) + 0.5) / 12 * 90 / 96
    inside = slice(1, 11)  # at the border the first column's middle is as far as one can look
    torch.testing.assert_close(maps[0, 0, 3, inside], columns[inside], atol=1e-3, rtol=0)


def test_a_model_in_half_precision_gives_maps_too(tiny_overrides: list[str]) -> None:
    model, inputs = tiny_model(tiny_overrides), an_input()
    fast = prepare_for_inference(model, InferenceOptions(precision="bfloat16"))
    maps = instances_with_maps(fast, inputs).activation_maps
    assert maps.dtype == torch.float32
    assert torch.isfinite(maps).all()


def test_the_picture_has_a_row_for_each_instance_and_a_column_for_each_map(
    tiny_overrides: list[str],
) -> None:
    model, inputs = tiny_model(tiny_overrides), an_input()
    instances = instances_with_maps(model, inputs)
    image = np.full((2 * SIZE[0], 2 * SIZE[1], 3), 90, np.uint8)
    pictures = [
        draw_activation_maps(image, instances, min_score=0.0, max_instances=rows, cell=80)
        for rows in (1, 2)
    ]
    assert all(picture.dtype == np.uint8 for picture in pictures)
    assert pictures[0].shape[1] == pictures[1].shape[1] == 5 * 88 + 8
    row = pictures[1].shape[0] - pictures[0].shape[0]
    assert 44 <= row <= 60  # 80 pixels wide, 44 or 45 high, and the gap
    assert (pictures[0] != 255).any()


def test_no_instance_gives_the_image(tiny_overrides: list[str]) -> None:
    instances = instances_with_maps(tiny_model(tiny_overrides), an_input())
    image = np.full((2 * SIZE[0], 2 * SIZE[1], 3), 90, np.uint8)
    picture = draw_activation_maps(image, instances, min_score=1.1, cell=80)
    assert (picture == 90).all(axis=2).sum() > 80 * 40


def test_a_heat_map_is_brightest_where_the_weights_are() -> None:
    weights = np.zeros((4, 6), np.float32)
    weights[1, 4] = 0.02
    picture = heat_map(np.zeros((40, 60, 3), np.uint8), weights).sum(axis=2)
    assert np.unravel_index(picture.argmax(), picture.shape) == pytest.approx((15, 45), abs=5)
    assert not np.isnan(heat_map(np.zeros((8, 8, 3), np.uint8), 0 * weights)).any()


def test_a_model_without_activation_maps_is_named() -> None:
    with pytest.raises(ConfigError, match="Linear has no instance activation maps"):
        instances_with_maps(torch.nn.Linear(1, 1), an_input())
