import pytest
import torch
from detectron2.structures import BitMasks, Instances
from torch.nn import functional as F

from sparseinst_d2 import SparseInstCriterion, SparseInstMatcher
from sparseinst_d2.mask_targets import mask_targets
from tests.plain.plain_losses import plain_losses

PADDED = (32, 64)


def ground_truth(num: int, size: tuple[int, int] = (30, 50)) -> Instances:
    instances = Instances(size)
    instances.gt_classes = torch.randint(3, (num,))
    instances.gt_masks = BitMasks(torch.rand(num, *size) > 0.5)
    return instances


def outputs(batch: int = 2, num: int = 5) -> dict[str, torch.Tensor]:
    return {
        "pred_logits": torch.randn(batch, num, 3, requires_grad=True),
        "pred_masks": torch.randn(batch, num, 8, 16, requires_grad=True),
        "pred_scores": torch.randn(batch, num, 1, requires_grad=True),
    }


def criterion(**kwargs: float) -> SparseInstCriterion:
    return SparseInstCriterion(matcher=SparseInstMatcher(), **kwargs)


@pytest.mark.parametrize("counts", [(2, 3), (0, 2), (0, 0), (9, 1)])
def test_losses_and_gradients_are_finite(counts: tuple[int, int]) -> None:
    predictions = outputs()
    losses = criterion()(predictions, [ground_truth(n) for n in counts], PADDED)
    sum(losses.values()).backward()
    for name, value in predictions.items():
        assert value.grad is not None, name
        assert torch.isfinite(value.grad).all(), name


def test_without_instances_only_the_classes_learn() -> None:
    predictions = outputs()
    losses = criterion()(predictions, [ground_truth(0), ground_truth(0)], PADDED)
    assert losses["loss_ce"] > 0
    assert losses["loss_mask"] == losses["loss_dice"] == losses["loss_objectness"] == 0


def test_weights_scale_their_losses() -> None:
    predictions, gt = outputs(), [ground_truth(2), ground_truth(3)]
    plain = criterion()(predictions, gt, PADDED)
    scaled = criterion(
        class_weight=4, mask_pixel_weight=15, mask_dice_weight=8, objectness_weight=5
    )(predictions, gt, PADDED)
    factors = {"loss_ce": 2, "loss_mask": 3, "loss_dice": 4, "loss_objectness": 5}
    for name, factor in factors.items():
        torch.testing.assert_close(scaled[name], plain[name] * factor)


def test_perfect_predictions_cost_almost_nothing() -> None:
    gt = Instances(PADDED)
    gt.gt_classes = torch.tensor([1, 2])
    masks = torch.zeros(2, *PADDED, dtype=torch.bool)
    masks[0, :16, :16] = True
    masks[1, 16:, 32:] = True
    gt.gt_masks = BitMasks(masks)
    targets = mask_targets(gt.gt_masks, PADDED, (8, 16))
    predictions = {
        "pred_logits": (F.one_hot(gt.gt_classes, 3).float() * 2 - 1)[None] * 30,
        "pred_masks": (targets * 2 - 1)[None] * 30,
        "pred_scores": torch.full((1, 2, 1), 30.0),
    }
    for name, value in criterion()(predictions, [gt], PADDED).items():
        assert value.item() == pytest.approx(0, abs=1e-4), name


def test_items_choose_the_losses() -> None:
    predictions, gt = outputs(), [ground_truth(1), ground_truth(1)]
    losses = criterion(items=("labels",))(predictions, gt, PADDED)
    assert set(losses) == {"loss_ce"}
    losses["loss_ce"].backward()
    # Without a gradient, even of zero, DistributedDataParallel would wait for ever.
    assert (predictions["pred_masks"].grad == 0).all()


@pytest.mark.parametrize("items", [("boxes",), ()])
def test_unknown_or_no_items_are_refused(items: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"LOSS\.ITEMS"):
        criterion(items=items)


def test_instances_and_matches_are_means_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a second process had 5 instances where this one has 1: both divide by 3."""
    predictions, gt = outputs(), [ground_truth(1), ground_truth(0)]
    alone = criterion()(predictions, gt, PADDED)
    monkeypatch.setattr("detectron2.utils.comm.all_gather", lambda counts: [counts, (0, 5)])
    together = criterion()(predictions, gt, PADDED)
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value / 3)


def test_ranks_without_instances_count_as_one_instance_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each divides by half of it: so the mean over both is what one process has."""
    predictions, gt = outputs(), [ground_truth(0), ground_truth(0)]
    alone = criterion()(predictions, gt, PADDED)
    monkeypatch.setattr("detectron2.utils.comm.all_gather", lambda counts: [counts, (0, 0)])
    together = criterion()(predictions, gt, PADDED)
    torch.testing.assert_close(together["loss_ce"], alone["loss_ce"] * 2)


def test_focal_gamma_zero_is_cross_entropy() -> None:
    predictions, gt = outputs(), [ground_truth(0), ground_truth(0)]
    loss = criterion(focal_alpha=0.5, focal_gamma=0.0, class_weight=2.0)(predictions, gt, PADDED)
    logits = predictions["pred_logits"]
    expected = F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="sum")
    torch.testing.assert_close(loss["loss_ce"], expected)


def test_half_precision_outputs_give_float32_losses() -> None:
    predictions = {name: value.half() for name, value in outputs().items()}
    losses = criterion()(predictions, [ground_truth(2), ground_truth(2)], PADDED)
    assert all(value.dtype == torch.float32 for value in losses.values())


COUNTS = {"normal": (3, 5), "half empty": (0, 2), "more than predictions": (9, 1), "one": (1, 0)}


@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
@pytest.mark.parametrize("items", [("labels", "masks"), ("masks",)])
def test_equals_the_plain_reference(counts: tuple[int, int], items: tuple[str, ...]) -> None:
    """In float64, where the gradients are exact; torch's softplus has an error of e^-20."""
    predictions = {
        name: (value.detach() * 2).double().requires_grad_() for name, value in outputs().items()
    }
    gt, own = [ground_truth(n) for n in counts], criterion(items=items)
    expected = plain_losses(own, predictions, gt, PADDED)
    sum(expected.values()).backward()
    gradients = {name: value.grad for name, value in predictions.items()}
    for value in predictions.values():
        value.grad = None
    losses = own(predictions, gt, PADDED)
    sum(losses.values()).backward()
    assert set(losses) == set(expected)
    for name, value in losses.items():
        tolerance = 1e-8 if name == "loss_ce" else 1e-10
        torch.testing.assert_close(value.double(), expected[name], rtol=tolerance, atol=0)
    for name, value in predictions.items():
        gradient = torch.zeros_like(value) if gradients[name] is None else gradients[name]
        torch.testing.assert_close(value.grad, gradient, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("scale_factor", [2.0, 1.5])
def test_upsampling_here_equals_upsampling_before(scale_factor: float) -> None:
    """And the plain reference, in float32, of a batch of images of different sizes."""
    low = outputs(batch=4, num=12)
    gt = [ground_truth(n, (32 - n, 64 - 3 * n)) for n in (4, 0, 1, 12)]
    losses = criterion()(low, gt, PADDED, scale_factor)
    sum(losses.values()).backward()

    again = {name: value.detach().requires_grad_() for name, value in low.items()}
    full = F.interpolate(
        again["pred_masks"], scale_factor=scale_factor, mode="bilinear", align_corners=False
    )
    expected = plain_losses(criterion(), {**again, "pred_masks": full}, gt, PADDED)
    sum(expected.values()).backward()
    for name, value in losses.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=0)
    for name, value in low.items():
        torch.testing.assert_close(value.grad, again[name].grad, rtol=1e-4, atol=1e-6)


def test_little_is_kept_for_the_backward_pass() -> None:
    """Of the matched masks nothing at the size of the targets, beside the targets themselves."""
    predictions, gt = outputs(num=6), [ground_truth(5), ground_truth(6)]
    targets = 11 * 16 * 32
    kept = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept[value.data_ptr()] = value.numel()
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        criterion()(predictions, gt, PADDED, 2.0)
    assert targets <= sum(kept.values()) < 1.5 * targets
