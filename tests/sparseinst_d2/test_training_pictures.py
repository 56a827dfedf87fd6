import numpy as np
import pytest
import torch
from detectron2.structures import PolygonMasks

from instseg_d2.config import load_config
from instseg_d2.modeling import build_model
from sparseinst_d2.training_pictures import MAX_INSTANCES, draw_batch, rgb_picture
from tests.sparseinst_d2.test_sparseinst import batch


def tiny_model(overrides: list[str]) -> torch.nn.Module:
    """It finds something everywhere."""
    thresholds = ["MODEL.SPARSE_INST.CLS_THRESHOLD", "0.0"]
    thresholds += ["MODEL.SPARSE_INST.MASK_THRESHOLD", "0.01"]
    cfg = load_config("sparseinst/sparse_inst_r50_giam", [*overrides, *thresholds])
    return build_model(cfg).eval()


@pytest.mark.parametrize("counts", [(2, 3, 1), (0, 0), (0,)])
def test_a_row_for_each_image_and_for_each_instance(
    tiny_overrides: list[str], counts: tuple[int, ...]
) -> None:
    inputs = batch(*counts)
    for one in inputs:  # sizes of the stored image, which the augmented one has no more
        one |= {"height": 300, "width": 500}
    with torch.no_grad():
        pictures = draw_batch(tiny_model(tiny_overrides), inputs, "RGB", None)
    assert set(pictures) == {"ground truth and prediction", "activation maps"}
    # Images of 60 x 90 pixels, in cells 360 and 240 pixels wide.
    rows = min(len(counts), 2)
    assert pictures["ground truth and prediction"].shape == (34 + rows * 248, 3 * 368 + 8, 3)
    assert pictures["activation maps"].shape == (34 + MAX_INSTANCES * 168, 5 * 248 + 8, 3)


def test_polygons_are_drawn_too(tiny_overrides: list[str]) -> None:
    inputs = batch(1)
    inputs[0]["instances"].gt_masks = PolygonMasks([[[5.0, 5, 60, 5, 60, 40, 5, 40]]])
    with torch.no_grad():
        draw_batch(tiny_model(tiny_overrides), inputs, "RGB", None)


def test_channels_are_put_into_order() -> None:
    image = torch.zeros(3, 2, 2)
    image[0] = 200
    assert rgb_picture(image, "RGB")[0, 0].tolist() == [200, 0, 0]
    assert rgb_picture(image, "BGR")[0, 0].tolist() == [0, 0, 200]
    assert rgb_picture(image, "RGB").dtype == np.uint8
