import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.visualizer import Visualizer

from instseg_d2.rle_masks import RLEMasks


def random_masks(count: int, height: int = 7, width: int = 9) -> tuple[torch.Tensor, RLEMasks]:
    bitmaps = torch.rand(count, height, width) > 0.6
    fortran = np.asfortranarray(bitmaps.numpy().transpose(1, 2, 0).astype(np.uint8))
    return bitmaps, RLEMasks(mask_util.encode(fortran) if count else [], (height, width))


@pytest.mark.parametrize("count", [0, 1, 5, 300])
def test_areas_boxes_and_bitmaps_are_those_of_the_masks(count: int) -> None:
    bitmaps, masks = random_masks(count)
    assert torch.equal(masks.decode(), bitmaps)
    assert torch.equal(masks.area(), bitmaps.sum(dim=(1, 2)))
    expected = BitMasks(bitmaps).get_bounding_boxes().tensor
    assert torch.equal(masks.bounding_boxes().tensor, expected.reshape(-1, 4))


@pytest.mark.parametrize(
    "item",
    [
        2,
        -1,
        slice(1, 4),
        [3, 0],
        np.array([1, 1]),
        torch.tensor([4, 2]),
        torch.tensor([True, False, True, False, True]),
        torch.zeros(5, dtype=torch.bool),
    ],
)
def test_indexing_is_that_of_a_tensor(item: object) -> None:
    bitmaps, masks = random_masks(5)
    expected = bitmaps[item].reshape(-1, 7, 9)
    assert torch.equal(masks[item].decode(), expected)


def test_an_index_beyond_the_end_is_refused() -> None:
    with pytest.raises(IndexError):
        random_masks(2)[1][5]


def test_masks_of_several_sizes_are_refused() -> None:
    rle = mask_util.encode(np.zeros((3, 4), np.uint8, order="F"))
    with pytest.raises(ValueError, match=r"of size \[3, 4\]"):
        RLEMasks([rle], (4, 3))


def test_it_is_a_field_of_instances() -> None:
    bitmaps, masks = random_masks(4)
    instances = Instances((7, 9), pred_masks=masks, proposal_boxes=masks.bounding_boxes())
    picked = Instances.cat([instances[torch.tensor([2, 0])], instances[3]]).to("cpu")
    assert torch.equal(picked.pred_masks.decode(), bitmaps[[2, 0, 3]])


def test_the_visualizer_draws_it() -> None:
    bitmaps, masks = random_masks(3, 40, 60)
    image = np.zeros((40, 60, 3), np.uint8)
    boxes = Boxes(masks.bounding_boxes().tensor)
    drawn = []
    for value in (masks, bitmaps):
        np.random.seed(0)  # of the colours
        instances = Instances((40, 60), pred_boxes=boxes, pred_masks=value)
        drawn.append(Visualizer(image).draw_instance_predictions(instances).get_image())
    assert (drawn[0] == drawn[1]).all()
    assert drawn[0].any()
