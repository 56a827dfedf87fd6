import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks
from torch.nn import functional as F

from sparseinst_d2 import postprocess
from sparseinst_d2.postprocess import (
    PostprocessOptions,
    class_scores,
    finish,
    maskness,
    postprocess_image,
    select,
)
from tests.plain.plain_postprocess import plain_instances

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


def test_an_instance_that_is_not_a_number_is_dropped() -> None:
    logits, ious, masks = random_outputs()
    masks[7, 2, 3] = float("nan")
    result = postprocess_image(logits, ious, masks, **SIZES, options=PostprocessOptions())
    assert len(result) == 19


def test_resizing_cuts_the_padding_away() -> None:
    """The image fills the upper left quarter of the input: what is outside must not show."""
    masks = torch.full((1, 8, 16), -9.0)
    masks[0, :4, :8] = 9
    result = postprocess_image(
        torch.zeros(1, 3), torch.zeros(1, 1), masks,
        padded_size=(32, 64), image_size=(14, 28), output_size=(28, 56),
        options=PostprocessOptions(),
    )  # fmt: skip
    assert result.pred_masks.all()


OPTIONS = {
    "default": PostprocessOptions(),
    "none are found": PostprocessOptions(cls_threshold=0.999),
    "few are wanted": PostprocessOptions(max_detections=5),
    "only the best": PostprocessOptions(cls_threshold=0.5, score_threshold=0.4),
    "another mask threshold": PostprocessOptions(mask_threshold=0.7),
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("num", [1, 100])
@pytest.mark.parametrize("scale_factor", [1.0, 2.0, 1.5])
def test_equals_the_plain_reference(
    options: PostprocessOptions, num: int, scale_factor: float
) -> None:
    """Three images of a batch at random sizes, from masks at the decoder's own resolution."""
    generator = np.random.default_rng(0)
    small = (20, 28)
    padded_size = (160, 224)
    low = torch.randn(3, num, *small) * 4
    outputs = {
        "pred_logits": torch.randn(3, num, 6) * 3,
        "pred_scores": torch.randn(3, num, 1) * 3,
        "pred_masks": F.interpolate(
            low, scale_factor=scale_factor, mode="bilinear", align_corners=False
        ),
    }
    for image in range(3):
        sizes = {
            "padded_size": padded_size,
            "image_size": tuple(int(generator.integers(1, side + 1)) for side in padded_size),
            "output_size": tuple(generator.integers(1, 300, 2).tolist()),
        }
        expected = plain_instances(outputs, image, **sizes, options=options)
        logits, ious = outputs["pred_logits"][image], outputs["pred_scores"][image]
        selected = select(logits, ious, options)
        results = [
            postprocess_image(
                logits, ious, outputs["pred_masks"][image], **sizes, options=options
            ),
            finish(
                selected, low[image][selected.index],
                scale_factor=scale_factor, **sizes, options=options,
            ),
        ]  # fmt: skip
        for result in results:
            assert result.image_size == expected.image_size
            torch.testing.assert_close(result.scores, expected.scores, rtol=0, atol=1e-6)
            assert torch.equal(result.pred_classes, expected.pred_classes)
            wrong = result.pred_masks != expected.pred_masks
            assert wrong.sum() <= 1e-5 * wrong.numel()
            boxes = BitMasks(result.pred_masks).get_bounding_boxes().tensor
            torch.testing.assert_close(result.pred_boxes.tensor, boxes)


def test_chunks_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    case = random_outputs()
    together = postprocess_image(*case, **SIZES, options=PostprocessOptions())
    monkeypatch.setattr(postprocess, "MAX_PIXELS", 3 * 8 * 16)
    apart = postprocess_image(*case, **SIZES, options=PostprocessOptions())
    torch.testing.assert_close(apart.scores, together.scores)
    assert torch.equal(apart.pred_masks, together.pred_masks)


def test_half_precision_logits_give_float32_scores() -> None:
    case = [value.half() for value in random_outputs()]
    result = postprocess_image(*case, **SIZES, options=PostprocessOptions())
    assert result.scores.dtype == torch.float32
    exact = [value.float() for value in case]
    expected = postprocess_image(*exact, **SIZES, options=PostprocessOptions())
    assert torch.equal(result.pred_masks, expected.pred_masks)
