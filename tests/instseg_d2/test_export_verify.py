import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from torch import nn

from instseg_d2.export.run import write_verified
from instseg_d2.export.settings import TOLERANCES, ExportSettings
from instseg_d2.export.verify import (
    NO_OUTLINES,
    Comparison,
    compare,
    has_outline,
    mask_ious,
    pictures,
)
from sparseinst_d2.postprocess import PostprocessOptions

TOLERANCE = TOLERANCES["float32"]
IMAGES = pictures(1, 40, 50)


class Model(nn.Module):
    """Answers with two instances."""

    postprocess_options = PostprocessOptions()

    def forward(self, batched_inputs):
        result = Instances((40, 50))
        result.scores = torch.tensor([0.4, 0.9])
        result.pred_classes = torch.tensor([2, 1])
        masks = torch.zeros(2, 40, 50, dtype=torch.bool)
        masks[0, :20], masks[1, 10:30] = True, True
        result.pred_masks = masks
        return [{"instances": result} for _ in batched_inputs]


def outputs(**changes):
    """What a graph with room for three gives for one image, best first; some of it changed."""
    masks = np.zeros((1, 3, 40, 50), dtype=bool)
    masks[0, 0, 10:30], masks[0, 1, :20] = True, True
    values = {
        "boxes": np.zeros((1, 3, 4)),
        "scores": np.array([[0.9, 0.4, 0.0]], dtype=np.float32),
        "labels": np.array([[1, 2, 0]]),
        "masks": masks,
        "counts": np.array([2]),
    }
    return list({**values, **changes}.values())


def holds(**changes):
    result = compare(Model(), lambda _: outputs(**changes), IMAGES, TOLERANCE, is_bgr=False)
    assert result.instances == result.outlined == 2
    return result.holds(TOLERANCE)


def test_the_same_answer_in_another_order_holds():
    assert holds()


@pytest.mark.parametrize(
    "changes",
    [
        {"scores": np.array([[0.9, 0.41, 0]], dtype=np.float32)},
        {"labels": np.array([[1, 3, 0]])},
        {"masks": np.ones((1, 3, 40, 50), dtype=bool)},
        {"counts": np.array([1])},
        {"counts": np.array([0])},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_other_answers_do_not_hold(changes):
    assert not holds(**changes)


def test_outlines():
    masks = np.zeros((3, 2, 4), dtype=bool)
    masks[0, 0, 1], masks[1] = True, True
    assert has_outline(masks).tolist() == [True, False, False]
    assert has_outline(masks[:0]).tolist() == []


@pytest.mark.parametrize(
    ("instances", "outlined", "said"), [(0, 0, "finds nothing"), (2, 0, NO_OUTLINES), (2, 1, "")]
)
def test_a_comparison_that_proves_little_says_so(instances, outlined, said, tmp_path, capsys):
    result = Comparison((1, 40, 50), instances, 0.0, 1.0, 0, outlined)
    path = tmp_path / "model.onnx"
    write_verified(path, b"content", [result], ExportSettings())
    printed = capsys.readouterr().out
    assert ("Note" in printed) == bool(said)
    assert said in printed
    assert path.read_bytes() == b"content"


def test_ious():
    masks = np.zeros((3, 2, 4), dtype=bool)
    masks[0, 0], masks[1, 0, :2] = True, True
    assert mask_ious(masks, masks).tolist() == [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]]
    assert mask_ious(masks[:0], masks).shape == (0, 3)


def test_pictures_are_always_the_same():
    assert (pictures(2, 40, 50) == pictures(2, 40, 50)).all()
    assert pictures(1, 40, 50).std() > 20
