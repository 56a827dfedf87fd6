"""Proposals of images, models and precisions that are out of the ordinary."""

from typing import Any

import pytest
import torch
from torch import nn

from instseg_d2.errors import ConfigError, DataError
from instseg_d2.inference import prepare_for_inference
from tests.sharpmask_d2.small_networks import patches
from tests.sharpmask_d2.whole_images import (
    an_image,
    make,
    make_p3,
    proposals,
    require_same,
)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 700), (900, 2), (16, 16)])
@pytest.mark.parametrize("name", ["coarse", "sharp"])
def test_tiny_and_narrow_images(name: str, size: tuple[int, int]) -> None:
    model = make(name, PROPOSALS__SCALES=(), PROPOSALS__PRESET="default")
    found = proposals(model, an_image(*size))
    assert found.image_size == size
    assert (found.proposal_boxes.tensor[:, 2:] <= torch.tensor(size[::-1])).all()


@pytest.mark.parametrize("name", ["coarse", "sharp"])
def test_an_image_much_smaller_than_the_model_sees_it(name: str) -> None:
    """Most windows cover no centre of a pixel."""
    model = make(name, PROPOSALS__REFERENCE_SIZE=640, PROPOSALS__NUM=300)
    for size in [(1, 1), (2, 3), (5, 5)]:
        assert proposals(model, an_image(*size)).image_size == size
    inputs = {**an_image(100, 150), "height": 1, "width": 1}
    assert proposals(model, inputs).image_size == (1, 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"height": 0}, "must be at least 1"),
        ({"image": an_image()["image"].numpy()}, "a tensor of shape .* got a ndarray"),
    ],
)
def test_inputs_of_another_kind_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        make()([{**an_image(), **changes}])


def test_padding_by_reflection_reaches_tiny_images() -> None:
    model = make(PADDING="reflect")
    assert proposals(model, an_image(1, 2)).image_size == (1, 2)


def test_a_window_of_no_whole_number_of_strides_to_its_centre() -> None:
    found = proposals(make_p3(), an_image(33, 50))
    assert len(found) > 0


def test_a_plain_image_has_proposals_as_any_other() -> None:
    inputs = {"image": torch.full((3, 50, 60), 128, dtype=torch.uint8)}
    found = proposals(make(), inputs)
    assert torch.isfinite(found.objectness_logits).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("known", "name"),
    [({"file_name": "x/b.jpg", "image_id": 7}, "image x/b.jpg"), ({"image_id": 7}, "image 7")],
)
def test_scores_that_are_no_numbers_name_the_image(
    value: float, known: dict[str, Any], name: str
) -> None:
    model = make()
    model.head.score[-1].bias.data.fill_(value)
    said = rf"{name}: the model's scores are not finite.*MODEL\.WEIGHTS.*float32"
    with pytest.raises(DataError, match=said):
        model([{"image": an_image()["image"], **known}])


@pytest.mark.parametrize("name", ["coarse", "sharp"])
def test_masks_that_are_no_numbers_name_the_image(name: str) -> None:
    model = make(name)
    last: nn.Module = model.head.mask if name == "coarse" else model.refinement.output
    last.bias.data.fill_(float("nan"))
    with pytest.raises(DataError, match=r"image a\.jpg: the model's masks are not finite"):
        model([an_image()])


@pytest.mark.parametrize("shape", [(70, 100), (1, 70, 100), (3, 0, 5), (4, 70, 100)])
def test_what_is_no_image_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"image 5: a tensor of shape \(3, height, width\)"):
        make()([{"image": torch.zeros(shape), "image_id": 5}])


def test_patches_and_images_are_told_apart() -> None:
    model = make()
    patch = patches(model, "+")[0]
    assert set(model([patch])[0]) >= {"mask_logits", "score_logit"}
    assert set(model([an_image()])[0]) == {"proposals"}
    with pytest.raises(ConfigError, match=r"whole images .* in one batch"):
        model([patch, an_image()])
    with pytest.raises(ConfigError, match=r"for training.*patches.*model\.eval\(\)"):
        model.train()([an_image()])


# ---------------------------------------------------------------------------- precision and devices


def test_no_gradients_are_kept() -> None:
    found = proposals(make(), an_image())
    assert not found.objectness_logits.requires_grad


@pytest.mark.parametrize("name", ["coarse", "sharp"])
def test_mixed_precision_proposes_nearly_the_same(name: str) -> None:
    model, inputs = make(name), an_image()
    expected = proposals(model, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        found = proposals(model, inputs)
    assert found.objectness_logits.dtype == torch.float32
    best = found.objectness_logits[0].item()
    assert best == pytest.approx(expected.objectness_logits[0].item(), rel=0.1, abs=0.1)


@pytest.mark.parametrize("name", ["coarse", "sharp"])
def test_a_model_made_fast_proposes_the_same(name: str) -> None:
    """Norms folded into convolutions, and channels last."""
    model, inputs = make(name), an_image()
    fast = prepare_for_inference(model)
    require_same(proposals(fast, inputs), proposals(model, inputs))


@pytest.mark.needs_cuda
@pytest.mark.parametrize("name", ["coarse", "sharp"])
def test_a_gpu_proposes_the_same(name: str) -> None:
    model, inputs = make(name), an_image()
    expected = proposals(model, inputs)
    found = proposals(model.cuda(), inputs)
    assert found.objectness_logits.is_cuda
    assert found.proposal_boxes.device.type == "cuda"
    found = found.to("cpu")
    torch.testing.assert_close(
        found.objectness_logits, expected.objectness_logits, rtol=1e-2, atol=1e-3
    )
    overlap = found.pred_masks.decode()[0] == expected.pred_masks.decode()[0]
    assert overlap.float().mean() > 0.99
