"""Equality with the authors' implementation, on outputs stored with name-determined weights."""

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from instseg_d2.config import load_config
from sparseinst_d2 import SparseInstCriterion, SparseInstMatcher
from sparseinst_d2.mask_targets import mask_targets
from sparseinst_d2.postprocess import PostprocessOptions, postprocess_image

MODELS = (
    "r50_base",
    "r50_giam",
    "r50_giam_soft",
    "r50_dcn_giam",
    "r101_giam",
    "r101_dcn_giam",
    "r50vd_base",
    "r50vd_giam",
    "r50vd_dcn_giam",
    "cspdarknet53_giam",
    "darknet53_giam",
    "pvt_b1_giam",
    "pvt_b2_li_giam",
)


@pytest.fixture(scope="module")
def goldens(shared: Path) -> Path:
    return shared / "goldens" / "sparseinst"


@pytest.fixture(scope="module")
def fill(shared: Path) -> ModuleType:
    """The module that makes weights from names."""
    spec = importlib.util.spec_from_file_location("fill", shared / "goldens" / "fill.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def golden_model(goldens: Path, fill: ModuleType, name: str) -> torch.nn.Module:
    """The model of a stored case with its weights; fails where names or shapes differ."""
    card = json.loads((goldens / f"{name}.json").read_text())
    cfg = load_config(f"sparseinst/{card['upstream_config']}", ["MODEL.DEVICE", "cpu"])
    model = build_model(cfg).eval()
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert shapes == card["shapes"]
    weights = fill.filled_state_dict(card["shapes"], card["seed"])
    for key, gain in card["gains"].items():
        weights[key] *= gain
    model.load_state_dict(weights, strict=True)
    return model


def relative_error(actual: torch.Tensor, expected: np.ndarray) -> float:
    """Largest error in units of the expected values' standard deviation."""
    return float(np.abs(actual.numpy() - expected).max() / expected.std())


@pytest.mark.parametrize("name", MODELS)
def test_network_outputs_equal_the_authors(goldens: Path, fill: ModuleType, name: str) -> None:
    model = golden_model(goldens, fill, name)
    inputs = np.load(goldens / "inputs.npz")
    expected = np.load(goldens / f"{name}.npz")
    batch = [{"image": torch.from_numpy(inputs[key])} for key in ("image0", "image1")]
    with torch.no_grad():
        feature = model.encoder(model.backbone(model.preprocess(batch).tensor))
        outputs = model.decoder(feature)
    assert relative_error(feature.mean((2, 3)), expected["encoder_mean"]) < 1e-3
    assert relative_error(feature.std((2, 3)), expected["encoder_std"]) < 1e-3
    assert relative_error(outputs["pred_logits"], expected["pred_logits"]) < 1e-3
    assert relative_error(outputs["pred_scores"], expected["pred_scores"]) < 1e-3
    assert relative_error(outputs["pred_masks"][:, ::10], expected["pred_masks_every10"]) < 1e-3


def criterion_case(
    goldens: Path,
) -> tuple[dict[str, torch.Tensor], list[Instances], np.lib.npyio.NpzFile]:
    data = np.load(goldens / "criterion.npz")
    outputs = {
        key: torch.from_numpy(data[key]).requires_grad_()
        for key in ("pred_logits", "pred_masks", "pred_scores")
    }
    gt_instances = []
    for image in range(len(data["pred_logits"])):
        height, width = (int(value) for value in data[f"size{image}"])
        packed = data[f"masks{image}_packed"]
        masks = np.unpackbits(packed, axis=1)[:, : height * width].reshape(-1, height, width)
        instances = Instances((height, width))
        instances.gt_classes = torch.from_numpy(data[f"labels{image}"])
        instances.gt_masks = BitMasks(torch.from_numpy(masks.astype(bool)))
        gt_instances.append(instances)
    return outputs, gt_instances, data


def test_matching_equals_the_authors(goldens: Path) -> None:
    outputs, gt_instances, data = criterion_case(goldens)
    size = outputs["pred_masks"].shape[-2:]
    padded_size = tuple(int(value) for value in data["input_shape"])
    matches = SparseInstMatcher()(
        outputs["pred_logits"],
        outputs["pred_masks"],
        [gt.gt_classes for gt in gt_instances],
        [mask_targets(gt.gt_masks, padded_size, size) for gt in gt_instances],
    )
    for image, match in enumerate(matches):
        np.testing.assert_array_equal(torch.stack(match).numpy(), data[f"match{image}"])


def test_losses_and_gradients_equal_the_authors(goldens: Path) -> None:
    outputs, gt_instances, data = criterion_case(goldens)
    padded_size = tuple(int(value) for value in data["input_shape"])
    losses = SparseInstCriterion(matcher=SparseInstMatcher())(outputs, gt_instances, padded_size)
    assert set(losses) == {"loss_ce", "loss_mask", "loss_dice", "loss_objectness"}
    for name, value in losses.items():
        assert value.item() == pytest.approx(float(data[name]), rel=1e-4), name
    sum(losses.values()).backward()
    for name, value in outputs.items():
        expected = data[f"grad_{name}"]
        error = np.abs(value.grad.numpy() - expected).max() / np.abs(expected).max()
        assert error < 1e-4, name


@pytest.mark.parametrize("image", [0, 1])
def test_postprocessing_equals_the_authors(goldens: Path, image: int) -> None:
    data = np.load(goldens / "postprocess.npz")
    height, width, out_height, out_width = (int(value) for value in data["sizes"][image])
    result = postprocess_image(
        *(
            torch.from_numpy(data[key][image])
            for key in ("pred_logits", "pred_scores", "pred_masks")
        ),
        padded_size=tuple(int(value) for value in data["max_shape"]),
        image_size=(height, width),
        output_size=(out_height, out_width),
        options=PostprocessOptions(),
    )
    np.testing.assert_allclose(result.scores, data[f"scores{image}"], atol=1e-5)
    np.testing.assert_array_equal(result.pred_classes, data[f"classes{image}"])
    packed = data[f"masks{image}_packed"]
    expected = np.unpackbits(packed, axis=1)[:, : out_height * out_width].astype(bool)
    assert (result.pred_masks.flatten(1).numpy() != expected).mean() <= 1e-4
