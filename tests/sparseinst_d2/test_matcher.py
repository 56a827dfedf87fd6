import itertools

import pytest
import torch
from torch.nn import functional as F

from sparseinst_d2 import SparseInstMatcher, matcher
from sparseinst_d2.losses import pairwise_dice
from tests.plain.plain_losses import plain_match


def random_case(num_preds: int = 5, num_gt: int = 3) -> tuple[torch.Tensor, ...]:
    logits = torch.randn(1, num_preds, 4)
    masks = torch.randn(1, num_preds, 6, 7)
    classes = torch.randint(4, (num_gt,))
    gt_masks = (torch.rand(num_gt, 6, 7) > 0.5).float()
    return logits, masks, classes, gt_masks


def test_no_assignment_is_better() -> None:
    logits, masks, classes, gt_masks = random_case()
    dice = pairwise_dice(masks[0].flatten(1).sigmoid(), gt_masks.flatten(1))
    score = dice**0.8 * logits[0].sigmoid()[:, classes] ** 0.2
    (pred, gt), *_ = SparseInstMatcher()(logits, masks, [classes], [gt_masks])
    best = max(
        sum(score[p, t].item() for t, p in enumerate(order))
        for order in itertools.permutations(range(5), 3)
    )
    torch.testing.assert_close(score[pred, gt].sum().item(), best)


def test_predictions_that_are_the_targets_are_found() -> None:
    gt_masks = torch.eye(4)[:, :, None].expand(4, 4, 5).contiguous()
    order = torch.tensor([2, 0, 3, 1])
    masks = ((gt_masks[order] * 2 - 1) * 20)[None]
    (pred, gt), *_ = SparseInstMatcher()(
        torch.zeros(1, 4, 2), masks, [torch.zeros(4, dtype=torch.int64)], [gt_masks]
    )
    assert gt[pred.argsort()].tolist() == order.tolist()


def test_beta_lets_the_class_decide_between_equal_masks() -> None:
    logits = torch.tensor([[[-5.0, 5.0], [5.0, -5.0]]])
    masks = torch.zeros(1, 2, 3, 3)
    (pred, _), *_ = SparseInstMatcher()(logits, masks, [torch.tensor([0])], [torch.ones(1, 3, 3)])
    assert pred.tolist() == [1]


def test_images_are_matched_apart_and_empty_ones_give_nothing() -> None:
    one, two = random_case(), random_case()
    matcher = SparseInstMatcher()
    together = matcher(
        torch.cat([one[0], two[0], two[0]]),
        torch.cat([one[1], two[1], two[1]]),
        [one[2], two[2], torch.zeros(0, dtype=torch.int64)],
        [one[3], two[3], torch.zeros(0, 6, 7)],
    )
    for image, match in zip((one, two), together, strict=False):
        alone = matcher(image[0], image[1], [image[2]], [image[3]])[0]
        assert [part.tolist() for part in alone] == [part.tolist() for part in match]
    assert [len(part) for part in together[2]] == [0, 0]


def test_more_targets_than_predictions() -> None:
    logits, masks, classes, gt_masks = random_case(num_preds=2, num_gt=6)
    (pred, gt), *_ = SparseInstMatcher()(logits, masks, [classes], [gt_masks])
    assert sorted(pred.tolist()) == [0, 1]
    assert len(set(gt.tolist())) == 2


def test_non_finite_predictions_do_not_stop_the_matching() -> None:
    logits, masks, classes, gt_masks = random_case()
    masks[0, 1, 2, 3] = float("nan")
    logits[0, 3] = float("inf")
    (pred, gt), *_ = SparseInstMatcher()(logits, masks, [classes], [gt_masks])
    assert len(pred) == len(gt) == 3


def test_half_precision_does_not_overflow() -> None:
    """A full-image mask at 640x864: the dice's sums are beyond what half precision can hold."""
    masks = torch.full((1, 2, 160, 216), 20.0, dtype=torch.float16)
    masks[0, 1] = -20
    gt_masks = torch.ones(1, 160, 216)
    (pred, _), *_ = SparseInstMatcher()(
        torch.zeros(1, 2, 2, dtype=torch.float16), masks, [torch.tensor([0])], [gt_masks]
    )
    assert pred.tolist() == [0]


def test_equals_the_plain_reference_with_masks_still_to_be_upsampled() -> None:
    num = 40
    logits, low = torch.randn(2, num, 4), torch.randn(2, num, 6, 7) * 3
    full = F.interpolate(low, scale_factor=2.0, mode="bilinear", align_corners=False)
    classes = [torch.randint(4, (n,)) for n in (12, 1)]
    gt_masks = [torch.rand(n, 12, 14) for n in (12, 1)]
    own = SparseInstMatcher(alpha=0.7, beta=0.4)
    for matches in (
        own(logits, full, classes, gt_masks),
        own(logits, low, classes, gt_masks, 2.0),
    ):
        for image, match in enumerate(matches):
            expected = plain_match(
                logits[image], full[image].flatten(1), classes[image], gt_masks[image].flatten(1),
                alpha=0.7, beta=0.4,
            )  # fmt: skip
            assert [part.tolist() for part in match] == [part.tolist() for part in expected]


def test_some_predictions_at_a_time_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, masks, classes, gt_masks = random_case(num_preds=9, num_gt=5)
    (together, _), *_ = SparseInstMatcher()(logits, masks, [classes], [gt_masks])
    monkeypatch.setattr(matcher, "MAX_PIXELS", 2 * 6 * 7)
    (apart, _), *_ = SparseInstMatcher()(logits, masks, [classes], [gt_masks])
    assert apart.tolist() == together.tolist()
