import tracemalloc

import numpy as np
import pytest
import torch
from detectron2.structures import BitMasks
from torch import Tensor
from torch.nn import functional as F

from sparseinst_d2 import mask_resize
from sparseinst_d2.mask_resize import boxes_from_masks, masks_and_boxes, upsample
from tests.plain.plain_postprocess import plain_probabilities

THRESHOLD = 0.45

#: Sizes of the small masks, the padded input, the image in it and the output.
SIZES = {
    "enlarged": ((8, 16), (32, 64), (30, 50), (45, 75)),
    "input of 640": ((160, 216), (640, 864), (640, 853), (480, 640)),
    "wider than a tile": ((40, 54), (160, 216), (150, 210), (60, 2000)),
    "shrunk": ((40, 54), (160, 216), (150, 210), (30, 41)),
    "one pixel": ((8, 16), (32, 64), (30, 50), (1, 1)),
    "one row": ((8, 16), (32, 64), (30, 50), (1, 70)),
    "from one pixel": ((1, 1), (32, 32), (20, 31), (40, 60)),
    "as large as the input": ((32, 64), (32, 64), (30, 50), (30, 50)),
    "uneven ratio": ((12, 25), (32, 64), (31, 63), (77, 100)),
}
each_size = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
both_ways = pytest.mark.parametrize("way", ["blocks", "interpolations"])


def noise(num: int, size: tuple[int, int]) -> Tensor:
    return torch.rand(num, *size)


def discs(num: int, size: tuple[int, int], largest: float = 0.4) -> Tensor:
    """Probabilities of a disc each, of different sizes at different places; the first is empty."""
    y, x = (torch.linspace(0, 1, length) for length in size)
    centre = torch.rand(num, 2, 1, 1)
    radius = torch.linspace(0, largest, num)[:, None, None]
    distance = ((y[:, None] - centre[:, 0]) ** 2 + (x - centre[:, 1]) ** 2).sqrt()
    return ((radius - distance) * 30).sigmoid() * (radius > 0)


def resized(probs: Tensor, sizes: tuple, way: str) -> tuple[Tensor, Tensor]:
    if way == "blocks":
        return masks_and_boxes(probs, *sizes[1:], THRESHOLD)
    masks = mask_resize._stretch_twice(probs, *sizes[1:], THRESHOLD)
    return masks, boxes_from_masks(masks)


def assert_right(masks: Tensor, probs: Tensor, sizes: tuple) -> None:
    """Equal to resizing twice at full size, up to pixels on the threshold."""
    expected = plain_probabilities(probs, *sizes[1:])
    assert masks.shape == expected.shape
    assert masks.dtype == torch.bool
    distance = (expected - THRESHOLD).abs()
    assert (distance[masks != (expected > THRESHOLD)] < 1e-5).all()


@both_ways
@each_size
@pytest.mark.parametrize("make", [noise, discs])
def test_equals_two_resizes_at_full_size(make, sizes: tuple, way: str) -> None:
    probs = make(7, sizes[0])
    masks, boxes = resized(probs, sizes, way)
    assert_right(masks, probs, sizes)
    torch.testing.assert_close(boxes, BitMasks(masks).get_bounding_boxes().tensor)


@both_ways
def test_random_sizes(way: str) -> None:
    generator = np.random.default_rng(0)
    for _ in range(30):
        small = tuple(generator.integers(1, 40, 2).tolist())
        padded = tuple(int(length * generator.integers(1, 6)) for length in small)
        image = tuple(int(generator.integers(1, length + 1)) for length in padded)
        output = tuple(generator.integers(1, 150, 2).tolist())
        sizes = (small, padded, image, output)
        for probs in (noise(2, small), discs(3, small)):
            masks, boxes = resized(probs, sizes, way)
            assert_right(masks, probs, sizes)
            torch.testing.assert_close(boxes, BitMasks(masks).get_bounding_boxes().tensor)


@both_ways
def test_masks_may_fill_the_image_or_be_empty(way: str) -> None:
    sizes = SIZES["enlarged"]
    probs = torch.tensor([1.0, 0.0, THRESHOLD])[:, None, None].expand(3, *sizes[0])
    masks, boxes = resized(probs, sizes, way)
    assert masks[0].all()
    assert not masks[1].any()
    assert boxes[:2].tolist() == [[0, 0, 75, 45], [0, 0, 0, 0]]


@both_ways
def test_a_mask_in_the_padding_is_empty(way: str) -> None:
    probs = torch.zeros(1, 8, 16)
    probs[0, :, 14:] = 1
    masks, boxes = resized(probs, SIZES["enlarged"], way)
    assert not masks.any()
    assert boxes.tolist() == [[0, 0, 0, 0]]


@both_ways
def test_no_masks(way: str) -> None:
    masks, boxes = resized(torch.zeros(0, 8, 16), SIZES["enlarged"], way)
    assert masks.shape == (0, 45, 75)
    assert boxes.shape == (0, 4)


def test_interpolations_of_few_masks_at_a_time_make_no_difference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = SIZES["enlarged"]
    probs = noise(9, sizes[0])
    together, _ = resized(probs, sizes, "interpolations")
    monkeypatch.setattr(mask_resize, "MAX_PIXELS", 2 * 45 * 75)
    assert torch.equal(resized(probs, sizes, "interpolations")[0], together)


def test_half_precision_and_gradients_are_accepted() -> None:
    sizes = SIZES["enlarged"]
    probs = noise(3, sizes[0]).half()
    expected, _ = resized(probs.float(), sizes, "blocks")
    for other in (probs, probs.float().requires_grad_(), probs.double()):
        assert torch.equal(resized(other, sizes, "blocks")[0], expected)


def test_memory_beside_the_masks_is_small() -> None:
    """100 masks of a photograph: 1.2 GB as bool, of which the empty part is never touched."""
    sizes = ((160, 216), (640, 864), (640, 853), (3000, 4000))
    probs = discs(100, sizes[0], largest=0.1)
    tracemalloc.start()
    try:
        masks, boxes = resized(probs, sizes, "blocks")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - masks.numel() < 2**24
    assert_right(masks[[1, 50]], probs[[1, 50]], sizes)
    for index in (0, 50, 99):
        left, top, right, bottom = boxes[index].int().tolist()
        outside = masks[index].clone()
        assert outside[top:bottom, left:right].any() == (index > 0)
        outside[top:bottom, left:right] = False
        assert not outside.any()


@pytest.mark.slow
def test_masks_that_fill_a_photograph() -> None:
    sizes = ((160, 216), (640, 864), (640, 853), (3000, 4000))
    probs = noise(3, sizes[0])
    masks, boxes = resized(probs, sizes, "blocks")
    assert_right(masks, probs, sizes)
    torch.testing.assert_close(boxes, BitMasks(masks).get_bounding_boxes().tensor)


def test_boxes_are_tight_and_those_of_detectron2() -> None:
    masks = torch.rand(10, 20, 30) > 0.98
    masks[3] = False
    expected = BitMasks(masks).get_bounding_boxes().tensor
    torch.testing.assert_close(boxes_from_masks(masks), expected)


@pytest.mark.parametrize("scale_factor", [2.0, 1.5])
def test_upsampling_is_what_the_decoder_does(scale_factor: float) -> None:
    logits = torch.randn(2, 3, 5, 7)
    expected = F.interpolate(
        logits, scale_factor=scale_factor, mode="bilinear", align_corners=False
    )
    for image, expected_image in zip(logits, expected, strict=True):
        torch.testing.assert_close(upsample(image, scale_factor), expected_image)
