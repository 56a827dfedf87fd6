import numpy as np
import pytest
import torch

from sharpmask_d2.patch_pictures import FACTOR, PREDICTION, TRUTH, draw_patches, outlined


def test_the_outline_lies_around_the_mask() -> None:
    mask = np.zeros((16, 16), dtype=bool)
    mask[4:12, 4:12] = True
    patch = np.full((24, 24, 3), 127, np.uint8)
    picture = outlined(patch, mask, TRUTH)
    assert picture.shape == (24 * FACTOR, 24 * FACTOR, 3)
    changed = np.argwhere((picture != 127).any(axis=2)) / FACTOR
    # The window starts 4 pixels into the patch, the mask 4 pixels into the window.
    assert changed.min(axis=0) == pytest.approx([8, 8], abs=1)
    assert changed.max(axis=0) == pytest.approx([16, 16], abs=1)
    assert (picture[12 * FACTOR, 12 * FACTOR] == 127).all()  # not filled
    assert (outlined(patch, np.zeros((16, 16), bool), TRUTH) == 127).all()


@pytest.mark.parametrize("keys", [("mask_logits",), ("coarse_logits", "mask_logits")])
@pytest.mark.parametrize("input_format", ["RGB", "BGR"])
def test_a_column_for_each_answer(keys: tuple[str, ...], input_format: str) -> None:
    image = torch.full((3, 24, 24), 127)
    image[0 if input_format == "RGB" else 2] = 200  # reddish
    target = torch.zeros(16, 16, dtype=torch.bool)
    target[4:12] = True
    answer = {key: torch.where(target, 5.0, -5.0)[::2, ::2] for key in keys}
    picture = draw_patches([{"image": image, "gt_mask": target}] * 2, [answer] * 2, input_format)
    columns = 2 + len(keys)
    assert picture.shape[1] == columns * 248 + 8
    assert (picture[100, 100] == [200, 127, 127]).all()
    assert (picture == TRUTH).all(axis=2).any()
    assert (picture == PREDICTION).all(axis=2).any()


def test_without_patches_there_is_no_picture() -> None:
    with pytest.raises(ValueError, match="rows"):
        draw_patches([], [])
