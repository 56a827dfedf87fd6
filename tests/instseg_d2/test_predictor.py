from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils.visualizer import Visualizer

from instseg_d2.config import load_config
from instseg_d2.errors import DataError, WeightsError
from instseg_d2.modeling import build_model
from instseg_d2.predictor import Predictor


@pytest.fixture(scope="module")
def cfg(tiny_overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> CfgNode:
    cfg = load_config("sparseinst/sparse_inst_r50_giam", tiny_overrides)
    cfg.MODEL.WEIGHTS = str(tmp_path_factory.mktemp("weights") / "model.pth")
    torch.manual_seed(0)
    model = build_model(cfg)
    # Untrained masks are flat; these have pixels on both sides of the threshold.
    torch.nn.init.normal_(model.decoder.inst_branch.mask_kernel.bias)
    torch.save(model.state_dict(), cfg.MODEL.WEIGHTS)
    return cfg


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (50, 70, 3), np.uint8)


def test_a_path_and_an_array_give_the_same(
    cfg: CfgNode, picture: np.ndarray, tmp_path: Path
) -> None:
    file = tmp_path / "image.png"
    cv2.imwrite(str(file), picture)
    predictor = Predictor(cfg)
    results = [predictor(image)["instances"] for image in (picture, str(file), file)]
    for result in results:
        assert result.image_size == (50, 70)
        torch.testing.assert_close(result.scores, results[0].scores)


def test_channels_reach_the_model_in_its_order(cfg: CfgNode, picture: np.ndarray) -> None:
    """BGR in, RGB at the model."""
    predictor = Predictor(cfg)
    seen = []
    predictor.model.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]["image"]))
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 2] = 255
    predictor(red)
    assert seen[0][0].min() == 255
    assert seen[0][2].max() == 0


@pytest.mark.parametrize("score_threshold", [0.0, 1.0])
def test_detectron2_draws_the_result_also_when_empty(
    cfg: CfgNode, picture: np.ndarray, score_threshold: float
) -> None:
    changed = cfg.clone()
    changed.MODEL.SPARSE_INST.SCORE_THRESHOLD = score_threshold
    predictor = Predictor(changed)
    instances = predictor(picture)["instances"]
    assert (len(instances) == 0) == (score_threshold == 1.0)
    drawn = Visualizer(picture, predictor.metadata).draw_instance_predictions(instances)
    assert drawn.get_image().shape == (50, 70, 3)
    assert "triangle" in predictor.metadata.thing_classes


@pytest.mark.parametrize("shape", [(0, 70, 3), (50, 0, 3), (50, 70), (50, 70, 4)])
def test_arrays_that_are_no_images(cfg: CfgNode, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="shape"):
        Predictor(cfg)(np.zeros(shape, np.uint8))


def test_a_missing_file_is_named(cfg: CfgNode) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jpg"):
        Predictor(cfg)("nowhere.jpg")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.WEIGHTS", "nowhere.pth", r"nowhere\.pth"),
        ("MODEL.WEIGHTS", "", "untrained"),
        ("MODEL.SPARSE_INST.DECODER.NAME", "BaseIAMDecoder", "another shape"),
        ("MODEL.SPARSE_INST.DECODER.NUM_CLASSES", 7, r"cls_score\.weight"),
    ],
)
def test_a_model_that_is_not_wholly_loaded_is_refused(
    cfg: CfgNode, key: str, value: object, message: str
) -> None:
    changed = cfg.clone()
    changed.merge_from_list([key, value])
    with pytest.raises(WeightsError, match=message):
        Predictor(changed)


def test_an_image_too_narrow_for_the_input_size_is_named(cfg: CfgNode) -> None:
    with pytest.raises(DataError, match="2000 x 1"):
        Predictor(cfg)(np.zeros((1, 2000, 3), np.uint8))
