"""Extreme patches, masks and scores in half precision: losses, gradients and proposals stay finite.

Saturated logits go up to 65,504, the largest number that float16 can hold.
"""

import numpy as np
import pytest
import torch
from detectron2.structures import Instances
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from instseg_d2.errors import NonFiniteError
from sharpmask_d2.heads import resize_masks
from sharpmask_d2.losses import mask_loss, score_loss
from sharpmask_d2.pasting import paste
from sharpmask_d2.rle_encoding import encode_runs

from .small_networks import patches, require_finite_gradients, small_model

LARGEST = 65504.0
HALF_TYPES = (torch.float16, torch.bfloat16)
LEVELS = (0.0, 1.0, 17.0, 1e4, LARGEST)
each_half_type = pytest.mark.parametrize("dtype", HALF_TYPES)
each_device = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.needs_cuda)]
)
of_each_kind = settings(max_examples=40)


@each_device
@of_each_kind
@given(
    dtype=st.sampled_from(HALF_TYPES),
    level=st.sampled_from(LEVELS),
    num=st.sampled_from((0, 1, 32)),
    sizes=st.sampled_from(((1, 1), (1, 3), (56, 112), (160, 160))),
    share=st.sampled_from((0.0, 0.5, 1.0)),
    seed=st.integers(0, 2**31),
)
@example(torch.float16, LARGEST, 32, (160, 160), 1.0, 0)  # the sums overflow float16
def test_losses_and_gradients_are_finite(
    device: str, dtype: torch.dtype, level: float, num: int, sizes: tuple[int, int],
    share: float, seed: int,
) -> None:  # fmt: skip
    """Of coarse masks, resized to the truth's size, and of scores, as the models compute them."""
    generator = torch.Generator().manual_seed(seed)
    small, large = sizes
    masks = torch.randint(-1, 2, (num, small, small), generator=generator) * level
    masks = masks.to(device, dtype).requires_grad_()
    scores = torch.randint(-1, 2, (num,), generator=generator) * level
    scores = scores.to(device, dtype).requires_grad_()
    truth = (torch.rand(num, large, large, generator=generator) < share).to(device)
    labels = (torch.rand(num, generator=generator) < share).to(device) * 2 - 1
    resized = resize_masks(masks, large) if num else masks.new_zeros(0, large, large)
    losses = mask_loss(resized.float(), truth), score_loss(scores.float(), labels)
    for loss in losses:
        assert torch.isfinite(loss)
        assert 0 <= loss.item() <= num * (torch.tensor(level, dtype=dtype).item() + 1)
    if num:
        sum(losses).backward()
        assert torch.isfinite(masks.grad).all()
        assert torch.isfinite(scores.grad).all()


@each_device
@each_half_type
@pytest.mark.parametrize("architecture", ["DeepMask", "SharpMask"])
@pytest.mark.parametrize("kinds", ["mmm", "+--", "-", "m+-", "m"])
def test_a_step_is_finite(device: str, dtype: torch.dtype, architecture: str, kinds: str) -> None:
    """Masks alone, scores alone, and both; masks of no, of one and of all pixels."""
    options = {"FREEZE_FEEDFORWARD": False} if architecture == "SharpMask" else {}
    model = small_model(architecture, **options).train().to(device)
    batch = patches(model, kinds)
    for index, sample in enumerate(batch):
        if "gt_mask" in sample:
            sample["gt_mask"][:] = index == 1
            sample["gt_mask"][0, 0] = index == 2
    with torch.autocast(device, dtype=dtype):
        losses = model(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    require_finite_gradients(model)


@each_device
@each_half_type
@pytest.mark.parametrize("level", [-LARGEST, 1e4])
def test_saturated_heads_learn(device: str, dtype: torch.dtype, level: float) -> None:
    model = small_model("DeepMask").train().to(device)
    for conv in (model.head.mask, model.head.score[-1]):
        nn.init.constant_(conv.bias, level)
    with torch.autocast(device, dtype=dtype):
        losses = model(patches(model, "mm+-"))
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    require_finite_gradients(model)


# ---------------------------------------------------------------------------------- proposals


@of_each_kind
@given(
    level=st.sampled_from(LEVELS[1:]),
    factor=st.sampled_from((0.25, 0.9, 1.0, 3.0)),
    seed=st.integers(0, 2**31),
)
def test_saturated_masks_are_pasted_as_their_signs(level: float, factor: float, seed: int) -> None:
    """Windows of 8 pixels at the level's corners; the sign decides, however large the logits.

    The logits differ a little in size: where two cancel out, rounding decides.
    """
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(2, (3, 8, 8), generator=generator) * 2.0 - 1
    signs *= 1 - torch.rand(3, 8, 8, generator=generator) / 8
    corners = torch.tensor([[0, 0], [4, 6], [12, 12]])
    output_size = round(20 / factor), round(20 / factor)
    codes = [
        encode_runs(paste(logits, corners, (20, 20), output_size, 0.0), 3, output_size)
        for logits in (signs, signs * level)
    ]
    assert codes[0] == codes[1]


@each_device
@pytest.mark.parametrize("architecture", ["DeepMask", "SharpMask"])
@pytest.mark.parametrize("bias", [-LARGEST, LARGEST])
@each_half_type
def test_proposals_of_a_saturated_model_are_finite(
    device: str, architecture: str, bias: float, dtype: torch.dtype
) -> None:
    model = small_model(architecture).eval().to(device)
    nn.init.constant_(model.head.score[-1].bias, bias)
    nn.init.constant_(model.head.mask.bias, bias)
    with torch.autocast(device, dtype=dtype):
        proposals: Instances = model([{"image": torch.full((3, 40, 70), 255.0)}])[0]["proposals"]
    assert torch.isfinite(proposals.objectness_logits).all()
    assert torch.isfinite(proposals.proposal_boxes.tensor).all()
    if architecture == "DeepMask":  # all windows are full, or all are empty
        assert (len(proposals) > 0) == (bias > 0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_model_that_is_broken_is_told_from_a_broken_image(value: float) -> None:
    model = small_model("DeepMask").eval()
    with torch.no_grad():
        model.head.mask.bias[0] = value
    with pytest.raises(NonFiniteError, match="masks are not finite"):
        model([{"image": torch.as_tensor(np.zeros((3, 40, 70), np.float32))}])
