import pytest
import torch

from sharpmask_d2.training_pictures import MAX_PATCHES, draw_batch
from tests.sharpmask_d2.small_networks import patches, small_model


@pytest.mark.parametrize(("architecture", "columns"), [("DeepMask", 3), ("SharpMask", 4)])
def test_patches_with_true_coarse_and_sharp_masks(architecture: str, columns: int) -> None:
    model = small_model(architecture).eval()
    with torch.no_grad():
        pictures = draw_batch(model, patches(model, "+mm-mmmm"), "RGB", None)
    height, width, _ = pictures["patches"].shape
    assert width == columns * 248 + 8
    assert height == 34 + MAX_PATCHES * 248


def test_a_mask_of_another_size_than_the_window_lies_where_the_window_is() -> None:
    """DeepMask's masks have 28 pixels for a window of 64: filled, they are outlined around it."""
    model = small_model().eval()
    samples = patches(model, "m")
    samples[0]["image"][:] = 0
    samples[0]["gt_mask"][:] = True
    with torch.no_grad():
        picture = draw_batch(model, samples, "RGB", None)["patches"]
    truth = picture[34:, 256:496]
    green = (truth[..., 1] > 150) & (truth[..., 0] < 150)
    rows = green.any(1).nonzero()[0]
    side = 240 / 96  # pixels of the picture per pixel of the patch
    assert rows[0] == pytest.approx(16 * side - 4, abs=8)
    assert rows[-1] == pytest.approx(80 * side, abs=8)


def test_without_a_mask_there_is_no_picture() -> None:
    model = small_model().eval()
    assert draw_batch(model, patches(model, "+-"), "RGB", None) == {}
