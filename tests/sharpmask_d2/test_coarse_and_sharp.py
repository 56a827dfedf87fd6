import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from instseg_d2.config import load_config
from instseg_d2.errors import ConfigError
from instseg_d2.mask_encoding import encode_masks
from instseg_d2.modeling import build_model
from instseg_d2.rle_masks import RLEMasks
from sharpmask_d2.coarse_and_sharp import coarse_and_sharp, draw_coarse_and_sharp


@pytest.fixture(scope="module")
def model(tiny_overrides):
    torch.manual_seed(0)
    options = ["MODEL.SHARP_MASK.PROPOSALS.SCALES", "(0.5, 1.0)"]
    options += ["MODEL.SHARP_MASK.PROPOSALS.MASK_THRESHOLD", "0.5"]
    few = ["MODEL.SHARP_MASK.PROPOSALS.NUM", "30", "MODEL.SHARP_MASK.PROPOSALS.BATCH", "4"]
    model = build_model(load_config("sharpmask/sharpmask_r50", [*tiny_overrides, *options, *few]))
    torch.nn.init.normal_(model.refinement.project.weight)
    torch.nn.init.normal_(model.refinement.output.weight)
    torch.nn.init.zeros_(model.refinement.output.bias)
    return model.eval()


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (3, 90, 130), generator=generator, dtype=torch.uint8)
    return {"image": image, "height": 45, "width": 65}


def test_both_masks_are_those_of_the_network_by_its_output(model, inputs, monkeypatch):
    found = coarse_and_sharp(model, inputs)
    sharp = model([inputs])[0]["proposals"]
    assert 0 < len(found) == len(sharp)
    assert found.pred_masks.rles == sharp.pred_masks.rles
    assert torch.equal(found.objectness_logits, sharp.objectness_logits)
    monkeypatch.setattr(model, "output", "coarse")
    coarse = model([inputs])[0]["proposals"]
    # The network leaves out empty masks.
    expected = {float(score): rle for score, rle in
                zip(coarse.objectness_logits, coarse.pred_masks, strict=True)}  # fmt: skip
    for score, rle, area in zip(
        found.objectness_logits, found.coarse_masks, found.coarse_masks.area(), strict=True
    ):
        if area:
            assert rle == expected[float(score)]
    assert found.coarse_masks.rles != found.pred_masks.rles


def test_other_models_are_refused(model, inputs, monkeypatch):
    monkeypatch.setattr(model, "output", "coarse")
    with pytest.raises(ConfigError, match="makes one mask of each window"):
        coarse_and_sharp(model, inputs)


def proposals(*pairs):
    found = Instances((40, 60))
    for field, masks in zip(("pred_masks", "coarse_masks"), zip(*pairs, strict=True), strict=True):
        found.set(field, RLEMasks(encode_masks(torch.stack(masks)).rles, (40, 60)))
    found.scores = torch.full((len(pairs),), 0.5)
    return found


def test_a_row_for_each_proposal_and_its_surroundings_alone():
    sharp, coarse, empty = (torch.zeros(40, 60, dtype=torch.bool) for _ in range(3))
    sharp[10:20, 10:20] = True
    coarse[12:18, 12:18] = True
    image = np.zeros((40, 60, 3), np.uint8)
    image[:, 30:] = 255  # beyond the margin
    one = draw_coarse_and_sharp(image, proposals((sharp, coarse)), cell=100)
    two = draw_coarse_and_sharp(image, proposals((sharp, coarse), (sharp, empty)), cell=100)
    assert one.shape[1] == two.shape[1] == 3 * 108 + 8
    assert len(two) - len(one) == 108
    row = one[-108:-8]
    assert not row[:, 8:108].any(), "the image as it is"
    coarse_area, sharp_area = ((row[:, x : x + 100].max(2) > 60).sum() for x in (116, 224))
    assert 0 < coarse_area < sharp_area


def test_no_proposals():
    found = proposals((torch.ones(40, 60, dtype=torch.bool),) * 2)[:0]
    picture = draw_coarse_and_sharp(np.zeros((40, 60, 3), np.uint8), found)
    assert picture.shape[1] == 300 + 16
