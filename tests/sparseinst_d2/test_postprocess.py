import pytest
import torch
from detectron2.structures import BitMasks

from sparseinst_d2.postprocess import (
    PostprocessOptions,
    boxes_from_masks,
    class_scores,
    maskness,
    postprocess_image,
    resize_masks,
)

SIZES = {"padded_size": (32, 64), "image_size": (30, 50), "output_size": (60, 100)}


def random_outputs(num: int = 20) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.randn(num, 3), torch.randn(num, 1), torch.randn(num, 8, 16)


def test_fields_shapes_and_types() -> None:
    result = postprocess_image(*random_outputs(), **SIZES, options=PostprocessOptions())
    assert result.image_size == (60, 100)
    assert result.pred_masks.shape == (20, 60, 100)
    assert result.pred_masks.dtype == torch.bool
    assert result.pred_boxes.tensor.shape == (20, 4)
    assert result.pred_classes.dtype == torch.int64
    assert ((result.scores > 0) & (result.scores <= 1)).all()


def test_nothing_found_still_has_every_field() -> None:
    logits, ious, masks = random_outputs()
    result = postprocess_image(logits - 99, ious, masks, **SIZES, options=PostprocessOptions())
    assert len(result) == 0
    assert result.pred_masks.shape == (0, 60, 100)
    assert result.pred_boxes.tensor.shape == (0, 4)
    assert result.scores.shape == result.pred_classes.shape == (0,)


def test_score_is_the_geometric_mean_of_the_best_class_and_the_iou() -> None:
    probs, iou = torch.tensor([[0.2, 0.9], [0.5, 0.4]]), torch.tensor([[0.4], [0.5]])
    scores, classes = class_scores(probs.logit(), iou.logit())
    torch.testing.assert_close(scores, torch.tensor([0.36, 0.25]).sqrt())
    assert classes.tolist() == [1, 0]


def test_maskness_by_hand() -> None:
    probs = torch.tensor([[[0.9, 0.5], [0.4, 0.1]], [[0.3, 0.3], [0.2, 0.1]]])
    torch.testing.assert_close(maskness(probs, 0.45), torch.tensor([0.7, 0.0]))


def test_instances_without_a_pixel_are_dropped() -> None:
    logits, ious, masks = random_outputs()
    masks[7] = -20
    result = postprocess_image(logits, ious, masks, **SIZES, options=PostprocessOptions())
    assert len(result) == 19


def test_max_detections_keeps_the_best_in_order() -> None:
    case = random_outputs()
    every = postprocess_image(*case, **SIZES, options=PostprocessOptions())
    few = postprocess_image(*case, **SIZES, options=PostprocessOptions(max_detections=6))
    best = every.scores.argsort(descending=True)[:6].sort().values
    torch.testing.assert_close(few.scores, every.scores[best])
    assert (few.pred_masks == every.pred_masks[best]).all()


def test_score_threshold_acts_on_the_final_score() -> None:
    case = random_outputs()
    every = postprocess_image(*case, **SIZES, options=PostprocessOptions())
    threshold = every.scores.median().item()
    some = postprocess_image(*case, **SIZES, options=PostprocessOptions(score_threshold=threshold))
    torch.testing.assert_close(some.scores, every.scores[every.scores > threshold])


def test_resizing_cuts_the_padding_away() -> None:
    """The image fills the upper left quarter of the input: what is outside must not show."""
    probs = torch.zeros(1, 8, 16)
    probs[0, :4, :8] = 1
    masks = resize_masks(probs, (32, 64), (14, 28), (28, 56), 0.45)
    assert masks.all()


@pytest.mark.parametrize("num", [1, 16, 33])
def test_chunks_make_no_difference(num: int) -> None:
    probs = torch.rand(num, 8, 16)
    together = resize_masks(probs, (32, 64), (30, 50), (45, 75), 0.45)
    apart = [resize_masks(p[None], (32, 64), (30, 50), (45, 75), 0.45) for p in probs]
    assert (together == torch.cat(apart)).all()


def test_boxes_are_tight_and_those_of_detectron2() -> None:
    masks = torch.rand(10, 20, 30) > 0.98
    masks[3] = False
    expected = BitMasks(masks).get_bounding_boxes().tensor
    torch.testing.assert_close(boxes_from_masks(masks), expected)
