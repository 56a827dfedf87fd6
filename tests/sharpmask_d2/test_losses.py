import math

import pytest
import torch
from torch.nn import functional as F

from sharpmask_d2.losses import mask_loss, score_loss, soft_margin


def test_soft_margin_by_hand() -> None:
    logits = torch.tensor([0.0, 2.0, -2.0, 2.0])
    targets = torch.tensor([1.0, 1.0, 1.0, -1.0])
    expected = [math.log(2), math.log1p(math.exp(-2)), math.log1p(math.exp(2))]
    expected.append(math.log1p(math.exp(2)))
    torch.testing.assert_close(soft_margin(logits, targets), torch.tensor(expected))


def test_mask_loss_is_a_sum_of_means() -> None:
    logits, masks = torch.randn(3, 5, 4), torch.rand(3, 5, 4) > 0.5
    targets = masks.float() * 2 - 1
    expected = sum(F.soft_margin_loss(x, y) for x, y in zip(logits, targets, strict=True))
    torch.testing.assert_close(mask_loss(logits, masks), expected)


def test_score_loss_is_a_sum() -> None:
    logits, labels = torch.randn(6), torch.tensor([1, -1, -1, 1, 1, -1])
    expected = F.soft_margin_loss(logits, labels.float(), reduction="sum")
    torch.testing.assert_close(score_loss(logits, labels), expected)


def test_the_loss_is_symmetric_in_the_sign() -> None:
    logits, masks = torch.randn(2, 4, 4), torch.rand(2, 4, 4) > 0.5
    torch.testing.assert_close(mask_loss(-logits, ~masks), mask_loss(logits, masks))


def test_nothing_costs_nothing_and_has_a_gradient() -> None:
    masks = torch.zeros(0, 4, 4, requires_grad=True)
    scores = torch.zeros(0, requires_grad=True)
    total = mask_loss(masks, torch.zeros(0, 4, 4, dtype=torch.bool)) + score_loss(
        scores, torch.zeros(0)
    )
    assert total.item() == 0
    total.backward()
    assert masks.grad.shape == (0, 4, 4)


@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_large_logits_stay_finite(size: float) -> None:
    logits = torch.tensor([[[size, -size]]], requires_grad=True)
    loss = mask_loss(logits, torch.tensor([[[True, True]]]))
    assert loss.item() == pytest.approx(size / 2, rel=1e-5)
    loss.backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[[0.0, -0.5]]]))


def test_gradient() -> None:
    logits = torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    masks = torch.rand(2, 3, 3) > 0.5
    assert torch.autograd.gradcheck(lambda x: mask_loss(x, masks), logits)
