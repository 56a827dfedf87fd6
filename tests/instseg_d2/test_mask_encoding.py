import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch

from instseg_d2.mask_encoding import encode_masks
from instseg_d2.rle_masks import RLEMasks


def wanted(masks: torch.Tensor) -> list[str]:
    return [
        mask_util.encode(np.asfortranarray(mask.numpy().astype(np.uint8)))["counts"].decode()
        for mask in masks
    ]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (7, 12), (33, 64), (130, 70)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_codes_and_areas_are_those_of_pycocotools(size: tuple[int, int], share: float) -> None:
    masks = torch.rand(5, *size) < share
    rles, areas = encode_masks(masks)
    assert [rle["counts"] for rle in rles] == wanted(masks)
    assert all(rle["size"] == list(size) for rle in rles)
    assert areas == masks.sum((1, 2)).tolist()


def test_masks_of_other_types_and_layouts() -> None:
    masks = torch.rand(4, 20, 30) < 0.4
    same = [
        masks.float(),
        masks.to(torch.uint8) * 255,
        masks.permute(2, 0, 1).contiguous().permute(1, 2, 0),
        masks.repeat_interleave(2, dim=2)[..., ::2],
    ]
    for other in same:
        assert encode_masks(other) == encode_masks(masks)


def test_no_masks() -> None:
    assert encode_masks(torch.zeros(0, 5, 6, dtype=torch.bool)) == ([], [])
    assert encode_masks(RLEMasks([], (5, 6))) == ([], [])


def test_codes_stay_as_they_are_however_many() -> None:
    """pycocotools on NumPy 2 cannot tell the areas of more than 255 masks at once."""
    masks = torch.rand(300, 6, 5) < 0.5
    encoded = encode_masks(masks)
    binary = [{**rle, "counts": rle["counts"].encode()} for rle in encoded.rles]
    assert encode_masks(RLEMasks(encoded.rles, (6, 5))) == encoded
    assert encode_masks(RLEMasks(binary, (6, 5))) == encoded
