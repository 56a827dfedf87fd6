import pytest
import torch
from detectron2.structures import BitMasks

from sparseinst_d2.mask_targets import batch_targets, mask_targets
from tests.plain.plain_losses import plain_targets

#: Sizes of the image, the padded input and the target.
SIZES = {
    "a quarter": ((637, 851), (640, 864), (160, 216)),
    "an eighth": ((637, 851), (640, 864), (80, 108)),
    "a third": ((29, 40), (30, 42), (10, 14)),
    "as large": ((30, 50), (32, 64), (32, 64)),
    "another ratio down than across": ((30, 50), (32, 64), (8, 32)),
    "uneven ratios": ((30, 50), (32, 64), (12, 24)),
    "enlarged": ((30, 50), (32, 64), (48, 96)),
    "one pixel": ((1, 1), (32, 32), (8, 8)),
    "no padding": ((32, 64), (32, 64), (8, 16)),
    "padding that begins between the pixels": ((30, 34), (32, 64), (8, 16)),
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("num", [0, 1, 3])
def test_equals_resizing_the_canvas(sizes: tuple, num: int) -> None:
    size, padded_size, output_size = sizes
    masks = torch.rand(num, *size) > 0.5
    targets = mask_targets(BitMasks(masks), padded_size, output_size)
    assert targets.shape == (num, *output_size)
    assert targets.dtype == torch.float32
    expected = plain_targets(masks, padded_size, output_size).view_as(targets)
    torch.testing.assert_close(targets, expected, rtol=0, atol=3e-6)


def test_the_mean_of_the_four_pixels_in_the_middle() -> None:
    masks = torch.zeros(1, 4, 8, dtype=torch.bool)
    masks[0, 1, 1] = True
    masks[0, 2, 5:7] = True
    masks[0, 0, :] = True  # not in the middle
    assert mask_targets(BitMasks(masks), (4, 8), (1, 2)).tolist() == [[[0.25, 0.5]]]


def test_targets_are_padded_then_resized() -> None:
    masks = torch.zeros(1, 28, 40, dtype=torch.bool)
    masks[0, :16, :16] = True
    target = mask_targets(BitMasks(masks), (32, 64), (8, 16))
    expected = torch.zeros(8, 16)
    expected[:4, :4] = 1
    torch.testing.assert_close(target[0], expected)


def test_images_of_a_batch_one_after_the_other() -> None:
    sizes = [(30, 50), (32, 20), (9, 64)]
    masks = [
        BitMasks(torch.rand(num, *size) > 0.5) for num, size in zip((2, 0, 3), sizes, strict=True)
    ]
    together = batch_targets(masks, (32, 64), (8, 16))
    apart = torch.cat([mask_targets(some, (32, 64), (8, 16)) for some in masks])
    assert torch.equal(together, apart)
