"""Extreme predictions and ground truth in every precision: what comes out is finite.

Half precision on the CPU does the same arithmetic as on a GPU, where the tests run too if there is
one. Saturated logits go up to 65,504, the largest number that float16 can hold.
"""

from dataclasses import dataclass

import pytest
import torch
from detectron2.structures import BitMasks, Instances
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from instseg_d2.config import load_config
from instseg_d2.modeling import build_model
from sparseinst_d2 import SparseInstCriterion, SparseInstMatcher
from sparseinst_d2.decoder import InstanceBranch, SoftmaxInstanceBranch
from sparseinst_d2.postprocess import PostprocessOptions, postprocess_image

NUM, CLASSES = 10, 3
LARGEST = 65504.0
HALF_TYPES = (torch.float16, torch.bfloat16)
each_half_type = pytest.mark.parametrize("dtype", HALF_TYPES)
each_device = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)]
)
of_each_kind = settings(max_examples=60)


@dataclass(frozen=True)
class Case:
    """A batch: what is predicted and what is true.

    Attributes:
        dtype: of the predictions.
        level: the predictions are this, its negative or 0.
        low: height and width of the predicted masks before they are upsampled.
        scale: by which they are; each pixel then stands for 4 x 4 of the input.
        counts: objects in each image.
        masks: the kind of all true masks.
        seed: of what is drawn.
    """

    dtype: torch.dtype
    level: float
    low: tuple[int, int]
    scale: int
    counts: tuple[int, ...]
    masks: str
    seed: int = 0

    @property
    def padded_size(self) -> tuple[int, int]:
        return 4 * self.scale * self.low[0], 4 * self.scale * self.low[1]

    def predictions(self, device: str) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        shapes = {"pred_logits": (CLASSES,), "pred_masks": self.low, "pred_scores": (1,)}
        return {
            name: (torch.randint(-1, 2, (len(self.counts), NUM, *shape), generator=generator))
            .mul(self.level)
            .to(device, self.dtype)
            .requires_grad_()
            for name, shape in shapes.items()
        }

    def ground_truth(self, device: str) -> list[Instances]:
        height, width = self.padded_size
        generator = torch.Generator().manual_seed(self.seed)
        truth = []
        for count in self.counts:
            if self.masks == "noise":
                masks = torch.rand(count, height, width, generator=generator) > 0.5
            else:
                masks = torch.full((count, height, width), self.masks == "full")
            if self.masks == "one pixel":
                masks[:, height // 2, width // 2] = True
            instances = Instances((height, width))
            instances.gt_classes = torch.randint(CLASSES, (count,), generator=generator)
            instances.gt_masks = BitMasks(masks)
            truth.append(instances.to(device))
        return truth


LARGE = (80, 108)  # of an input of 640 x 864, upsampled by 2
counts = st.lists(st.sampled_from((0, 1, 3)), min_size=1, max_size=3).map(tuple)
cases = st.one_of(
    st.builds(
        Case,
        dtype=st.sampled_from((*HALF_TYPES, torch.float32)),
        level=st.sampled_from((0.0, 1.0, 17.0, 1e4, LARGEST)),
        low=st.sampled_from(sizes),
        scale=st.sampled_from((1, 2)),
        counts=some_counts,
        masks=st.sampled_from(("full", "one pixel", "empty", "noise")),
        seed=st.integers(0, 2**31),
    )
    for sizes, some_counts in (
        (((1, 1), (1, 7), (6, 8)), counts | st.sampled_from(((300,), (300, 0)))),
        ((LARGE,), counts),
    )
)


def assert_finite(**values: Tensor | None) -> None:
    for name, value in values.items():
        assert value is not None, name
        assert torch.isfinite(value).all(), name


# ------------------------------------------------------------------------ matching and losses


@each_device
@of_each_kind
@given(case=cases)
@example(case=Case(torch.float16, LARGEST, LARGE, 2, (1, 0), "full"))
@example(case=Case(torch.float16, LARGEST, LARGE, 2, (0, 0), "full"))
@example(case=Case(torch.float16, 1e4, (6, 8), 2, (300, 1), "one pixel"))
def test_losses_and_gradients_are_finite(device: str, case: Case) -> None:
    criterion = SparseInstCriterion(matcher=SparseInstMatcher())
    predictions, truth = case.predictions(device), case.ground_truth(device)
    losses = criterion(predictions, truth, case.padded_size, float(case.scale))
    assert_finite(**losses)
    assert all(loss.dtype == torch.float32 and loss >= 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert_finite(**{name: value.grad for name, value in predictions.items()})

    exact = {name: value.detach().double() for name, value in predictions.items()}
    expected = criterion(exact, truth, case.padded_size, float(case.scale))
    # The IoU to be predicted is rounded to float32, and the logit multiplies what that takes.
    rounding = {"loss_objectness": case.level * torch.finfo(torch.float32).eps}
    for name, loss in losses.items():
        atol = 1e-4 + rounding.get(name, 0.0)
        torch.testing.assert_close(loss.double(), expected[name].double(), rtol=1e-3, atol=atol)


@each_device
@of_each_kind
@given(case=cases, broken=st.sampled_from((None, torch.nan, torch.inf, -torch.inf)))
def test_every_object_is_matched_as_long_as_there_are_predictions(
    device: str, case: Case, broken: float | None
) -> None:
    predictions, truth = case.predictions(device), case.ground_truth(device)
    masks = predictions["pred_masks"].detach()
    if broken is not None:
        masks[0, 0, 0, 0] = broken
    sizes = [case.scale * length for length in case.low]
    targets = [
        nn.functional.interpolate(gt.gt_masks.tensor[:, None].float(), sizes)[:, 0]
        if len(gt)
        else torch.zeros(0, *sizes, device=device)
        for gt in truth
    ]
    matches = SparseInstMatcher()(
        predictions["pred_logits"], masks, [gt.gt_classes for gt in truth], targets,
        float(case.scale),
    )  # fmt: skip
    for count, (pred, gt) in zip(case.counts, matches, strict=True):
        assert len(pred) == len(gt) == min(count, NUM)
        assert len(set(pred.tolist())) == len(set(gt.tolist())) == len(pred)


def test_infinite_masks_cost_nothing_where_there_is_no_object() -> None:
    """No loss depends on them."""
    case = Case(torch.float16, 1.0, (6, 8), 1, (0, 0), "empty")
    predictions = case.predictions("cpu")
    with torch.no_grad():
        predictions["pred_masks"][0, 0] = torch.inf
    criterion = SparseInstCriterion(matcher=SparseInstMatcher())
    losses = criterion(predictions, case.ground_truth("cpu"), case.padded_size)
    assert_finite(**losses)
    sum(losses.values()).backward()
    assert (predictions["pred_masks"].grad == 0).all()


# --------------------------------------------------------------- pooling by activation maps


def branch(kind: type[InstanceBranch]) -> InstanceBranch:
    return kind(in_channels=4, dim=4, num_convs=1, num_masks=2, num_classes=CLASSES, kernel_dim=4)


@each_device
@of_each_kind
@given(
    kind=st.sampled_from((InstanceBranch, SoftmaxInstanceBranch)),
    dtype=st.sampled_from((*HALF_TYPES, torch.float32)),
    level=st.sampled_from((-LARGEST, -1e4, -100.0, -17.0, -12.0, 0.0, 12.0, 1e4, LARGEST)),
    spread=st.sampled_from((0.0, 1.0)),
    num_pixels=st.sampled_from((1, 30, 8640, 34560)),
    size=st.sampled_from((0.01, 1.0, 100.0)),
    seed=st.integers(0, 2**31),
)
@example(InstanceBranch, torch.float16, -LARGEST, 0.0, 8640, 100.0, 0)  # a map that has died out
@example(InstanceBranch, torch.float16, LARGEST, 0.0, 34560, 100.0, 0)  # its sum overflows float16
def test_pooled_features_are_means_and_gradients_finite(
    device: str, kind: type[InstanceBranch], dtype: torch.dtype, level: float, spread: float,
    num_pixels: int, size: float, seed: int,
) -> None:  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 2, num_pixels, generator=generator) * spread
    logits = (level + noise).clamp(-LARGEST, LARGEST).to(device, dtype).requires_grad_()
    feature = torch.rand(1, 4, num_pixels, generator=generator) * size
    feature = feature.to(device, dtype).requires_grad_()
    with torch.autocast(device, dtype=dtype, enabled=dtype != torch.float32):
        pooled = branch(kind).to(device).pool(logits, feature)
    assert_finite(pooled=pooled)
    assert 0 <= pooled.min() <= pooled.max() <= feature.max() * 1.02
    if level >= 0:  # no map is near its end
        assert pooled.min() >= feature.min() * 0.98
    pooled.float().sum().backward()
    assert_finite(logits=logits.grad, feature=feature.grad)


@each_device
@each_half_type
@pytest.mark.parametrize("level", [-LARGEST, -17.0, 1e4])
@pytest.mark.parametrize("decoder", ["BaseIAMDecoder", "GroupIAMDecoder", "GroupIAMSoftDecoder"])
def test_decoders_learn_with_saturated_maps(
    tiny_overrides: list[str], device: str, dtype: torch.dtype, level: float, decoder: str
) -> None:
    overrides = [*tiny_overrides, "MODEL.SPARSE_INST.DECODER.NAME", decoder]
    decoder_of = build_model(load_config("sparseinst/sparse_inst_r50_base", overrides)).decoder
    decoder_of.to(device)
    nn.init.constant_(decoder_of.inst_branch.iam_conv.bias, level)
    feature = torch.randn(2, 16, 80, 108, device=device)
    with torch.autocast(device, dtype=dtype):
        outputs = decoder_of(feature)
    assert_finite(**outputs)
    sum(value.float().mean() for value in outputs.values()).backward()
    assert_finite(**{name: value.grad for name, value in decoder_of.named_parameters()})


def test_a_map_of_one_pixel_gives_that_pixel(tiny_overrides: list[str]) -> None:
    model = build_model(load_config("sparseinst/sparse_inst_r50_giam", tiny_overrides))
    outputs = model.decoder(torch.randn(1, 16, 1, 1))
    assert_finite(**outputs)
    assert outputs["pred_masks"].shape == (1, NUM, 2, 2)
    one = branch(InstanceBranch).pool(torch.randn(1, 2, 1), feature := torch.randn(1, 4, 1))
    torch.testing.assert_close(one, feature.transpose(1, 2).expand(1, 2, 4))


# ------------------------------------------------------------------------------ rescoring


@each_device
@of_each_kind
@given(
    case=cases,
    output_size=st.sampled_from(((1, 1), (7, 5), (64, 48))),
    broken=st.sampled_from((None, torch.nan, torch.inf, -torch.inf)),
)
def test_results_are_finite(
    device: str, case: Case, output_size: tuple[int, int], broken: float | None
) -> None:
    predictions = {name: value.detach() for name, value in case.predictions(device).items()}
    if broken is not None:
        predictions["pred_logits"][0, 0], predictions["pred_masks"][0, 1] = broken, broken
    height, width = case.padded_size
    found = postprocess_image(
        predictions["pred_logits"][0], predictions["pred_scores"][0], predictions["pred_masks"][0],
        padded_size=(height, width), image_size=(height - 1, width - 2), output_size=output_size,
        options=PostprocessOptions(),
    )  # fmt: skip
    assert_finite(scores=found.scores, boxes=found.pred_boxes.tensor)
    assert ((found.scores > 0) & (found.scores <= 1)).all()
    assert found.pred_masks.shape == (len(found), *output_size)
    assert (found.pred_boxes.tensor[:, 2:].cpu() <= torch.tensor(output_size[::-1])).all()


# ---------------------------------------------------------------------------- the whole model


@each_device
@each_half_type
@pytest.mark.parametrize(
    ("name", "size", "counts", "masks"),
    [
        ("empty images only", (64, 96), (0, 0), "empty"),
        ("half empty", (64, 96), (0, 3), "noise"),
        ("one pixel", (64, 96), (1, 1), "one pixel"),
        ("more than predictions", (64, 96), (300,), "noise"),
        ("full image", (640, 864), (1,), "full"),
    ],
)
def test_a_step_of_the_whole_model_is_finite(
    tiny_overrides: list[str], device: str, dtype: torch.dtype, name: str, size: tuple[int, int],
    counts: tuple[int, ...], masks: str,
) -> None:  # fmt: skip
    case = Case(dtype, 1.0, (size[0] // 4, size[1] // 4), 1, counts, masks)
    overrides = [*tiny_overrides, "MODEL.DEVICE", device]
    model = build_model(load_config("sparseinst/sparse_inst_r50_giam", overrides)).train()
    inputs = [
        {"image": torch.randint(256, (3, *size)), "instances": instances}
        for instances in case.ground_truth("cpu")
    ]
    with torch.autocast(device, dtype=dtype):
        losses = model(inputs)
    assert_finite(**losses)
    sum(losses.values()).backward()
    gradients = {n: value.grad for n, value in model.named_parameters() if value.requires_grad}
    assert_finite(**gradients)
