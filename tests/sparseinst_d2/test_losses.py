from collections.abc import Callable

import pytest
import torch
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor
from torch.nn import functional as F

from sparseinst_d2 import losses
from sparseinst_d2.losses import focal_loss, mask_losses, pairwise_dice


def value_and_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    value = function(x)
    (gradient,) = torch.autograd.grad(value, x)
    return value.detach(), gradient


def of_pairs(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross entropy, dice loss and IoUs of (M, P) logits with as many targets, in this order."""
    return mask_losses(logits[:, None], targets[:, None], torch.arange(len(logits)))


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
    torch.testing.assert_close(of_pairs(logits, targets)[1], (1 - pairs.diagonal()).sum())


def test_cross_entropy_is_that_of_torch() -> None:
    """Also where the logits are so large that their exponentials are not finite."""
    logits = torch.cat([torch.randn(2, 40), torch.randn(2, 40) * 100])
    targets = torch.rand(4, 40)
    targets[1] = (targets[1] > 0.5).float()
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    torch.testing.assert_close(of_pairs(logits, targets)[0], expected)


def test_perfect_masks_cost_nothing() -> None:
    targets = (torch.rand(3, 50) > 0.5).float()
    cross_entropy, dice, ious = of_pairs((targets * 2 - 1) * 50, targets)
    assert dice.item() == pytest.approx(0, abs=1e-4)
    assert cross_entropy.item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(ious, torch.ones(3))


def test_small_losses_are_exact() -> None:
    """Of masks that are almost perfect: nothing large is subtracted from something large."""
    targets = (torch.rand(3, 500) > 0.5).float()
    logits = (targets * 2 - 1) * torch.linspace(8, 14, 500)
    expected = F.binary_cross_entropy_with_logits(logits.double(), targets.double())
    actual = of_pairs(logits, targets)[0] / targets.numel()
    torch.testing.assert_close(actual, expected.float(), rtol=1e-5, atol=0)


def test_empty_masks_have_no_overlap_and_finite_gradients() -> None:
    logits = torch.full((2, 10), -30.0, requires_grad=True)
    _, dice, ious = of_pairs(logits, torch.zeros(2, 10))
    assert ious.tolist() == [0, 0]
    dice.backward()
    assert torch.isfinite(logits.grad).all()


def test_iou_uses_both_thresholds() -> None:
    # Probabilities .39, .41, .41, .41 -> 0 1 1 1; targets .51, .51, .5, 0 -> 1 1 0 0.
    logits = torch.tensor([[0.39, 0.41, 0.41, 0.41]]).logit()
    targets = torch.tensor([[0.51, 0.51, 0.5, 0.0]])
    assert of_pairs(logits, targets)[2].item() == pytest.approx(1 / 4, abs=1e-5)


@pytest.mark.parametrize("loss", [0, 1])
@pytest.mark.parametrize("scale_factor", [1.0, 2.0, 1.5])
@pytest.mark.parametrize("chunk", [1, 2**18])
def test_gradients(
    monkeypatch: pytest.MonkeyPatch, loss: int, scale_factor: float, chunk: int
) -> None:
    """Of each loss by itself, of targets that are used twice and never, whatever the chunks."""
    monkeypatch.setattr(losses, "CPU_CHUNK_PIXELS", chunk)
    logits = torch.randn(4, 4, 6, dtype=torch.float64, requires_grad=True)
    size = [int(length * scale_factor) for length in (4, 6)]
    targets, index = torch.rand(3, *size, dtype=torch.float64), torch.tensor([2, 0, 0, 2])
    assert torch.autograd.gradcheck(
        lambda x: mask_losses(x, targets, index, scale_factor)[loss], logits
    )


def test_ious_have_no_gradient() -> None:
    logits, targets = torch.randn(3, 10, requires_grad=True), torch.rand(3, 10)
    assert not of_pairs(logits, targets)[2].requires_grad


@pytest.mark.parametrize("alpha", [0.25, -1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_is_that_of_fvcore(alpha: float, gamma: float) -> None:
    logits, targets = torch.randn(40, 3) * 5, (torch.rand(40, 3) > 0.5).float()
    found = value_and_gradient(lambda x: focal_loss(x, targets, alpha=alpha, gamma=gamma), logits)
    expected = value_and_gradient(
        lambda x: sigmoid_focal_loss(x, targets, alpha=alpha, gamma=gamma, reduction="sum"), logits
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0])
def test_focal_loss_learns_from_any_logit(gamma: float) -> None:
    """Right answers cost nothing, wrong ones what they are off by; neither gradient is NaN."""
    logits = torch.tensor([-65504.0, -200.0, -17.0, 17.0, 200.0, 65504.0])
    for sign in (1, -1):  # what is right for a target of 1 is wrong for one of 0
        targets = torch.full_like(logits, sign > 0)
        loss, gradient = value_and_gradient(
            lambda x, t=targets: focal_loss(x, t, alpha=-1, gamma=gamma), logits
        )
        assert loss.item() == pytest.approx(65504 + 200 + 17, rel=1e-6)
        expected = torch.where(logits * sign < 0, -float(sign), 0.0)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-5)
