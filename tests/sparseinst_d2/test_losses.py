import pytest
import torch

from sparseinst_d2.losses import binarised_iou, dice_loss, mask_bce_loss, pairwise_dice


def test_pairwise_dice_by_hand() -> None:
    pred = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]])
    target = torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    expected = torch.tensor([[2 / 3, 1.0], [1 / 2, 2 / 3]])
    torch.testing.assert_close(pairwise_dice(pred, target), expected, atol=1e-3, rtol=0)


def test_dice_is_symmetric_and_within_bounds() -> None:
    a, b = torch.rand(4, 30), torch.rand(5, 30)
    dice = pairwise_dice(a, b)
    torch.testing.assert_close(dice, pairwise_dice(b, a).T)
    assert ((dice >= 0) & (dice <= 1)).all()


def test_dice_loss_is_one_minus_the_diagonal_of_the_pairs() -> None:
    logits, targets = torch.randn(4, 30), (torch.rand(4, 30) > 0.5).float()
    pairs = pairwise_dice(logits.sigmoid(), targets)
    torch.testing.assert_close(dice_loss(logits, targets), (1 - pairs.diagonal()).sum())


def test_perfect_masks_cost_nothing() -> None:
    targets = (torch.rand(3, 50) > 0.5).float()
    logits = (targets * 2 - 1) * 50
    assert dice_loss(logits, targets).item() == pytest.approx(0, abs=1e-4)
    assert mask_bce_loss(logits, targets).item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(binarised_iou(logits, targets), torch.ones(3))


def test_empty_masks_have_no_overlap_and_finite_gradients() -> None:
    logits = torch.full((2, 10), -30.0, requires_grad=True)
    targets = torch.zeros(2, 10)
    assert binarised_iou(logits, targets).tolist() == [0, 0]
    dice_loss(logits, targets).backward()
    assert torch.isfinite(logits.grad).all()


def test_iou_uses_both_thresholds() -> None:
    # Probabilities .39, .41, .41, .41 -> 0 1 1 1; targets .51, .51, .5, 0 -> 1 1 0 0.
    logits = torch.tensor([[0.39, 0.41, 0.41, 0.41]]).logit()
    targets = torch.tensor([[0.51, 0.51, 0.5, 0.0]])
    assert binarised_iou(logits, targets).item() == pytest.approx(1 / 4, abs=1e-5)


def test_dice_gradient() -> None:
    logits = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.rand(2, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: dice_loss(x, targets), logits)
