"""Proposals of whole images, with small networks on the CPU."""

from typing import Any

import numpy as np
import pytest
import torch

from instseg_d2.stage_clock import StageClock
from sharpmask_d2.deepmask import DeepMask
from sharpmask_d2.full_image import Found, ImageInput, find_windows, masks_of_level
from sharpmask_d2.pyramid import level_sizes, num_windows, pyramid_level
from sharpmask_d2.selection import best_of_level
from tests.sharpmask_d2.small_networks import patches
from tests.sharpmask_d2.whole_images import (
    MODELS,
    an_image,
    make,
    make_p3,
    proposals,
    require_same,
)

STAGES = ["pyramid", "trunk", "score", "selection", "skips", "masks", "pasting", "encoding"]


# ------------------------------------------------------------------ equality with the patch network


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_a_window_without_context_is_a_patch(name: str) -> None:
    """Score, encoding and mask, on an input that ends where the window ends."""
    model = make(name, CONTEXT=0)
    batch = [{"image": sample["image"]} for sample in patches(model, "m")]
    features = model.backbone(model.preprocess(batch))
    windows = best_of_level(model.head(features[model.feature]), (1, 1), 0, 1, -np.inf)
    found = Found(windows, {0: model.window_maps(features)})
    image = ImageInput.read(batch[0], model.device)
    ((_, logits, corners),) = masks_of_level(model, image, found, 0)
    assert corners.tolist() == [[-32, -32]]
    (answer,) = model.predict_patches(batch)
    torch.testing.assert_close(logits[0], answer["mask_logits"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(windows.scores[0], answer["score_logit"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", ["coarse", "original head", "coarse output"])
def test_the_centre_of_a_patch_is_its_window(name: str) -> None:
    """Around an image of 32 pixels half a window of grey makes a patch with context."""
    model = make(name, PROPOSALS__SCALES=(1.0,))
    image = ImageInput.read(an_image(32, 32), model.device)
    found = find_windows(model, image, [(32, 32)])
    assert len(found.windows) == 9
    centre = (found.windows.cells == 1).all(dim=1).nonzero()[0]
    ((_, logits, _),) = masks_of_level(
        model, image, Found(found.windows.take(centre), found.maps), 0
    )
    patch = {"image": pyramid_level(image.pixels, (32, 32), 64, 16)}
    (answer,) = model.predict_patches([patch])
    torch.testing.assert_close(logits[0], answer["mask_logits"], rtol=1e-4, atol=1e-5)
    score = found.windows.scores[centre[0]]
    torch.testing.assert_close(score, answer["score_logit"], rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("make_model", [make, make_p3])
def test_masks_are_made_of_slices_of_dense_maps(make_model: Any) -> None:
    model = make_model()
    image = ImageInput.read(an_image(), model.device)
    found = find_windows(model, image, [image.size])
    padded = pyramid_level(image.pixels, image.size, model.window_size, model.stride)
    features = model.backbone(model.normalise(padded)[None])
    maps = model.skips(features)
    output = model.head(features[model.feature])
    done = 0
    for ranks, logits, _ in masks_of_level(model, image, found, 0):
        for rank, mask in list(zip(ranks.tolist(), logits, strict=True))[::7]:
            row, column = found.windows.cells[rank].tolist()
            parts = []
            for name, values in zip(model.skip_features, maps, strict=True):
                step = model.stride // model.strides[name]
                side = model.window_size // model.strides[name]
                y, x = row * step, column * step
                parts.append(values[..., y : y + side, x : x + side])
            encoding = output.encoding[..., row, column]
            expected = model.sharp_masks(encoding, parts)[0]
            torch.testing.assert_close(mask, expected, rtol=1e-4, atol=1e-5)
            done += 1
    assert done > 3


# -------------------------------------------------------------------------------- what is proposed


@pytest.mark.parametrize("name", MODELS)
def test_every_model_proposes(name: str) -> None:
    found = proposals(make(name), an_image())
    assert found.image_size == (70, 100)
    assert set(found.get_fields()) == {"pred_masks", "proposal_boxes", "objectness_logits"}
    assert 0 < len(found) <= 3 * 4 + 5 * 7
    assert found.objectness_logits.dtype == torch.float32
    assert (found.objectness_logits.diff() <= 0).all()
    bitmaps = found.pred_masks.decode()
    for bitmap, box in zip(bitmaps, found.proposal_boxes.tensor.tolist(), strict=True):
        rows, columns = np.nonzero(bitmap.numpy())
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@torch.no_grad()
@pytest.mark.parametrize("size", [(70, 100), (64, 96), (33, 47)])
def test_the_best_of_all_scales_are_chosen(size: tuple[int, int]) -> None:
    """Also against windows that exist for the sake of the padding, which a sort over all cells of
    the head's answer would find."""
    model = make(PROPOSALS__SCALES=(0.5, 0.7, 1.0), PROPOSALS__NUM=20)
    inputs = an_image(*size)
    every = []
    for level_size in level_sizes(size, (0.5, 0.7, 1.0)):
        padded = pyramid_level(inputs["image"].float(), level_size, 64, 16)
        scores = model.head(model.backbone(model.normalise(padded)[None])["res4"]).score_logits
        rows, columns = num_windows(level_size, 16)
        every += scores[0, 0, :rows, :columns].flatten().tolist()
    image = ImageInput.read(inputs, model.device)
    windows = find_windows(model, image, level_sizes(size, (0.5, 0.7, 1.0))).windows
    assert windows.scores.tolist() == sorted(every, reverse=True)[:20]


def constant_model(**settings: Any) -> DeepMask:
    """Every window has the same score and the same mask: a disc of 20 pixels around its centre."""
    model = make("coarse", HEAD__MASK_SIZE=64, **settings)
    places = torch.arange(64) + 0.5 - 32
    disc = 10 - (places[:, None] ** 2 + places**2).sqrt()
    with torch.no_grad():
        for layer, bias in ((model.head.mask, disc.flatten()), (model.head.score[-1], 0.0)):
            layer.weight.zero_()
            layer.bias.copy_(torch.as_tensor(bias))
    return model


def test_masks_lie_where_their_windows_lie() -> None:
    """And of windows of equal scores the largest come first, then the upper, then the left ones."""
    model = constant_model(PROPOSALS__SCALES=(0.5, 0.8, 2.0), PROPOSALS__MASK_THRESHOLD=0.5)
    found = proposals(model, an_image(120, 150))
    expected = [
        (row * 16 * 120 / height, column * 16 * 150 / width, 10 * 120 / height)
        for height, width in level_sizes((120, 150), (0.5, 0.8, 2.0))
        for row in range(height // 16 + 1)
        for column in range(width // 16 + 1)
    ]
    assert len(found) == len(expected)
    for (left, top, right, bottom), (y, x, radius) in zip(
        found.proposal_boxes.tensor.tolist(), expected, strict=True
    ):
        for low, high, centre, side in ((left, right, x, 150), (top, bottom, y, 120)):
            assert abs(low - max(centre - radius, 0)) <= 1.01
            assert abs(high - min(centre + radius, side)) <= 1.01


@pytest.mark.parametrize(("height", "width"), [(140, 200), (35, 50), (90, 60)])
def test_the_output_may_have_another_size(height: int, width: int) -> None:
    """The same masks, stretched; scales are of the image that came in."""
    model = constant_model(PROPOSALS__MASK_THRESHOLD=0.5)
    inputs = an_image(70, 100)
    native = proposals(model, inputs)
    other = proposals(model, {**inputs, "height": height, "width": width})
    assert other.image_size == other.pred_masks.image_size == (height, width)
    assert len(other) == len(native)
    native.proposal_boxes.scale(width / 100, height / 70)
    errors = other.proposal_boxes.tensor - native.proposal_boxes.tensor
    assert errors[:, 0::2].abs().max() <= 1 + width / 100
    assert errors[:, 1::2].abs().max() <= 1 + height / 70


def test_without_a_size_it_is_that_of_the_image() -> None:
    model, inputs = make(), an_image()
    bare = {"image": inputs["image"]}
    require_same(proposals(model, bare), proposals(model, inputs), share=0)


def test_the_type_of_the_pixels_does_not_matter() -> None:
    model, inputs = make(), an_image()
    as_float = {**inputs, "image": inputs["image"].float()}
    require_same(proposals(model, as_float), proposals(model, inputs), share=0)


@pytest.mark.parametrize("name", ["coarse", "sharp", "multiscale"])
def test_the_batch_changes_nothing(name: str) -> None:
    model, inputs = make(name), an_image()
    expected = proposals(model, inputs)
    for batch in (1, 7, 1000):
        require_same(proposals(model, inputs, batch=batch), expected)


def test_images_of_a_batch_are_on_their_own() -> None:
    model = make()
    images = [an_image(70, 100), an_image(40, 30), an_image(64, 64)]
    answers = model(images)
    for answer, inputs in zip(answers, images, strict=True):
        require_same(answer["proposals"], proposals(model, inputs))
    assert model([]) == []


# ------------------------------------------------------------------------------------------ options


def test_options_have_their_effect() -> None:
    model, inputs = make(), an_image()
    every = proposals(model, inputs)
    few = proposals(model, inputs, num=10)
    assert torch.equal(few.objectness_logits, every.objectness_logits[: len(few)])
    middle = every.objectness_logits[9].sigmoid().item()
    better = proposals(model, inputs, score_threshold=middle)
    assert len(better) in (9, 10)
    assert len(proposals(model, inputs, score_threshold=0.999999)) == 0
    assert len(proposals(model, inputs, scales=(1.0,))) <= 5 * 7
    assert len(proposals(model, inputs, scales=(), preset="default")) > len(every)
    relative = proposals(model, inputs, scales=(0.5, 1.0), reference_size=100)
    require_same(relative, every, share=0)
    assert len(proposals(model, inputs, scales=(0.5,), reference_size=100)) <= 3 * 4


def test_the_threshold_is_a_probability() -> None:
    """Of the disc's logit, which falls by 1 a pixel from 10 in its centre."""
    model = constant_model(PROPOSALS__SCALES=(1.0,))
    for probability in (0.2, 0.5, 0.9, 0.99):
        found = proposals(model, an_image(96, 96), mask_threshold=probability)
        box = found.proposal_boxes.tensor[24]  # the centre of 7 x 7 windows
        radius = 10 - np.log(probability / (1 - probability))
        assert (box[2] - box[0]).item() == pytest.approx(2 * radius, abs=1.01)
        assert found.pred_masks[24].area().item() == pytest.approx(np.pi * radius**2, rel=0.05)


def test_empty_masks_are_left_out() -> None:
    model = constant_model()
    with torch.no_grad():
        model.head.mask.bias.fill_(-10)
    found = proposals(model, an_image())
    assert len(found) == len(found.pred_masks) == len(found.proposal_boxes) == 0
    assert found.proposal_boxes.tensor.shape == (0, 4)


def test_near_duplicates_are_left_out_if_wanted() -> None:
    model = constant_model(PROPOSALS__SCALES=(0.4, 0.5))
    inputs = an_image(100, 100)
    every = proposals(model, inputs)
    fewer = proposals(model, inputs, nms_threshold=0.3)
    assert 0 < len(fewer) < len(every)
    bitmaps = fewer.pred_masks.decode().flatten(1).float()
    shared = bitmaps @ bitmaps.T
    areas = bitmaps.sum(1)
    ious = shared / (areas[:, None] + areas - shared)
    assert (ious - torch.eye(len(fewer))).max() <= 0.3


def test_what_masks_share_is_computed_only_where_it_may_be_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, calls = make(PROPOSALS__NUM=3, PROPOSALS__SCALES=(0.3, 0.5, 1.0)), []
    monkeypatch.setattr(model, "window_maps", lambda features: calls.append(1) or {})
    model.head.score[-1].weight.data.zero_()  # equal scores: the first level has the best
    image = ImageInput.read(an_image(), model.device)
    find_windows(model, image, level_sizes(image.size, (0.3, 0.5, 1.0)))
    assert len(calls) == 1


def test_coarse_output_leaves_the_refinement_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make("coarse output")
    monkeypatch.setattr(model.refinement, "skips", None)
    monkeypatch.setattr(model.refinement, "forward", None)
    assert len(proposals(model, an_image())) > 0


def test_stages_are_measured() -> None:
    clock = StageClock()
    answers = make().predict_images([an_image(), an_image()], clock)
    assert list(clock.seconds) == STAGES
    assert all(seconds > 0 for seconds in clock.seconds.values())
    assert len(answers) == 2
