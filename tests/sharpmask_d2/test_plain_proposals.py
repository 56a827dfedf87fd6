"""Proposals against the plain way to make them: the same function, computed otherwise."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from torch import nn

from sharpmask_d2.deepmask import DeepMask
from sharpmask_d2.pyramid import level_sizes
from tests.plain.plain_proposals import plain_level, plain_paste, plain_proposals
from tests.sharpmask_d2.whole_images import MODELS, an_image, make, proposals, require_same


def lively(name: str, scales: tuple[float, ...], inputs: dict[str, Any]) -> DeepMask:
    """A model with about half of the masks' pixels above the threshold. Where a new refinement
    gives the same everywhere it is drawn wider."""
    model = make(name, PROPOSALS__SCALES=scales, PROPOSALS__NUM=25)
    if name in ("sharp", "original form"):
        for module in model.refinement.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)
    with torch.no_grad():
        image = inputs["image"].float()
        (size,) = level_sizes((image.shape[1], image.shape[2]), scales[-1:])
        level = plain_level(model, image, size)
        middle = level.masks(range(len(level.scores))).median().sigmoid().clamp(0.05, 0.95)
    model.proposals = replace(model.proposals, mask_threshold=float(middle))
    return model


def require_mixed(found: Instances) -> None:
    """Masks that neither fill their windows nor leave them empty."""
    masks, boxes = found.pred_masks, found.proposal_boxes
    assert 0.1 < float((masks.area() / boxes.area()).mean()) < 0.95


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("everywhere", [True, False])
def test_at_the_size_of_the_image(name: str, everywhere: bool) -> None:
    """No resizing: nothing but rounding is left to differ."""
    inputs = an_image()
    model = lively(name, (1.0,), inputs)
    expected = plain_proposals(model, inputs, everywhere=everywhere)
    assert 5 < len(expected) <= 25
    require_mixed(expected)
    actual = proposals(model, inputs)
    require_same(actual, expected, share=1e-4)
    if torch.equal(actual.pred_masks.decode(), expected.pred_masks.decode()):
        boxes = actual.proposal_boxes.tensor, expected.proposal_boxes.tensor
        torch.testing.assert_close(*boxes)


@pytest.mark.parametrize("scale", [0.5, 0.7, 2**0.5])
@pytest.mark.parametrize("name", ["coarse", "multiscale"])
def test_where_masks_are_resized(name: str, scale: float) -> None:
    """Beyond the image's border the one sees the mask, the other the border."""
    inputs = an_image(96, 128)
    model = lively(name, (scale,), inputs)
    expected = plain_proposals(model, inputs)
    require_mixed(expected)
    require_same(proposals(model, inputs), expected, share=4e-3)


def test_thresholds_are_those_of_the_product() -> None:
    inputs = an_image()
    model = lively("multiscale", (0.5, 1.0), inputs)
    scores = plain_proposals(model, inputs).objectness_logits
    middle = scores[len(scores) // 2 - 1 : len(scores) // 2 + 1].mean().sigmoid()
    model.proposals = replace(model.proposals, score_threshold=float(middle))
    actual, expected = proposals(model, inputs), plain_proposals(model, inputs)
    assert len(expected) == len(scores) // 2
    require_same(actual, expected, share=4e-3)


def test_a_mask_is_pasted_where_its_window_is() -> None:
    inside = np.full((4, 4), 9.0, np.float32)
    pasted = plain_paste(inside, (-1, 2), (6, 8), (6, 8), 0.5)
    assert pasted.sum() == 3 * 4
    assert pasted[:3, 2:6].all()
    assert plain_paste(inside, (-1, 2), (6, 8), (12, 16), 0.5)[:6, 4:12].sum() == 48
