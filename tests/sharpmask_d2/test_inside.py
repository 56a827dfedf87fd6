import numpy as np
import pytest
import torch

from sharpmask_d2.inside import look_inside
from tests.sharpmask_d2.whole_images import an_image, make


@pytest.fixture(scope="module")
def model():
    return make("sharp")


def test_the_scores_and_windows_are_those_of_the_proposals(model):
    inputs = an_image()
    levels, windows = look_inside(model, inputs, num=9)
    proposals = model([inputs])[0]["proposals"]
    assert [level.size for level in levels] == [(35, 50), (70, 100)]
    every = np.concatenate([level.scores.ravel() for level in levels])
    assert [window.score for window in windows] == pytest.approx(sorted(every)[::-1][:9], abs=1e-6)
    # No proposal is empty here, so that ranks are the same.
    expected = proposals.objectness_logits[:9].sigmoid().tolist()
    assert [window.score for window in windows] == pytest.approx(expected, abs=1e-6)
    for window in windows:
        row, column = np.array(window.corner) // model.stride
        assert levels[window.level].scores[row, column] == pytest.approx(window.score, abs=1e-6)


def test_the_states_lead_to_the_sharp_mask(model):
    levels, windows = look_inside(model, an_image(), num=3)
    side, cells = model.window_size, model.refinement.cells
    for window in windows:
        assert window.coarse.shape == window.sharp.shape == (side, side)
        y, x = window.corner
        assert levels[window.level].picture[y : y + side, x : x + side].shape == (side, side, 3)
        assert [state.shape[1] for state in window.states] == [
            cells * 2**step for step in range(len(window.states))
        ]
        last = torch.from_numpy(window.states[-1])[None]
        sharp = model.refinement.output(last)[0, 0].sigmoid().detach().numpy()
        np.testing.assert_allclose(sharp, window.sharp, atol=1e-5)


def test_looking_changes_nothing(model):
    inputs = an_image()
    before = model([inputs])[0]["proposals"]
    look_inside(model, inputs)
    after = model([inputs])[0]["proposals"]
    assert before.pred_masks.rles == after.pred_masks.rles
    assert not any(module._forward_hooks for module in model.modules())
