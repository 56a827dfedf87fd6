import numpy as np
import pytest
import torch
from detectron2.data import transforms as T

from instseg_d2.config import get_cfg
from instseg_d2.errors import ConfigError, DataError
from instseg_d2.preprocessing import ImagePreprocessor


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)


@pytest.mark.parametrize("shape", [(50, 70), (70, 50), (64, 64), (20, 190), (333, 500)])
def test_it_resizes_as_detectron2_does(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3), np.uint8)
    inputs = ImagePreprocessor("BGR", 64, 96)(image)
    transform = T.ResizeShortestEdge([64, 64], 96).get_transform(image)
    wanted = transform.apply_image(image).transpose(2, 0, 1)
    torch.testing.assert_close(inputs["image"], torch.from_numpy(wanted.copy()), rtol=0, atol=0)
    assert (inputs["height"], inputs["width"]) == shape


def test_the_order_of_channels_is_the_models(picture: np.ndarray) -> None:
    bgr, rgb = (ImagePreprocessor(order, 64, 96)(picture)["image"] for order in ("BGR", "RGB"))
    torch.testing.assert_close(bgr, rgb.flip(0), rtol=0, atol=0)
    assert bgr.dtype == torch.uint8


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_images_may_stay_at_their_size(picture: np.ndarray, order: str) -> None:
    cfg = get_cfg()
    cfg.INPUT.FORMAT, cfg.INPUT.MIN_SIZE_TEST = order, 0
    untouched = picture.copy()
    image = ImagePreprocessor.from_config(cfg)(picture)["image"]
    wanted = picture if order == "BGR" else picture[:, :, ::-1]
    np.testing.assert_array_equal(image.permute(1, 2, 0), wanted)
    np.testing.assert_array_equal(picture, untouched)


def test_the_random_state_is_left_alone(picture: np.ndarray) -> None:
    """Detectron2's own transform draws a number: in threads, at any time."""
    before = np.random.get_state()[1].copy()
    ImagePreprocessor("BGR", 64, 96)(picture)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.parametrize("shape", [(0, 70, 3), (50, 0, 3), (50, 70), (50, 70, 4), (1, 2, 50, 3)])
def test_arrays_that_are_no_images_are_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"frame 7: shape \(H, W, 3\)"):
        ImagePreprocessor("BGR", 64, 96)(np.zeros(shape, np.uint8), "frame 7")


def test_an_image_that_resizing_would_leave_nothing_of() -> None:
    with pytest.raises(DataError, match=r"2000 x 1\b"):
        ImagePreprocessor("BGR", 64, 96)(np.zeros((1, 2000, 3), np.uint8))


def test_other_formats_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'YUV-BT\.601'"):
        ImagePreprocessor("YUV-BT.601", 64, 96)
