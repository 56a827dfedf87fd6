"""Fast R-CNN on proposals: the box head, the detector around it, and torchvision's VGG-16 in it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, build_box_head
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from instseg_d2.checkpoint import InstSegCheckpointer
from instseg_d2.config import load_config
from instseg_d2.errors import ConfigError
from instseg_d2.modeling import build_model
from instseg_d2.weights.convert import Options, convert_file
from sharpmask_d2.fast_rcnn import FastRCNNDropoutHead
from sharpmask_d2.padding import MirroredConv2d
from tests.sharpmask_d2.small_networks import require_finite_gradients

VGG16 = "sharpmask/fast_rcnn_vgg16_sharpmask"
CHANNELS = (4, 8, 8, 16, 16)
WIDTH = 32
SLIM = {
    "MODEL.DEVICE": "cpu",
    "MODEL.VGG.CHANNELS": CHANNELS,
    "MODEL.ROI_BOX_HEAD.FC_DIM": WIDTH,
    "MODEL.ROI_HEADS.NUM_CLASSES": 3,
}
POOLED = ShapeSpec(channels=6, height=7, width=7)


def make_config(overrides: dict[str, Any] = {}) -> CfgNode:  # noqa: B006
    pairs = {**SLIM, **overrides}
    return load_config(VGG16, [part for pair in pairs.items() for part in pair])


# ------------------------------------------------------------------------------------------- head


def head(**options: Any) -> FastRCNNDropoutHead:
    return FastRCNNDropoutHead(POOLED, **{"fc_dims": (20, 10), **options})


def test_the_config_says_what_the_head_is() -> None:
    keys = {"MODEL.ROI_BOX_HEAD.DROPOUT": 0.25, "MODEL.ROI_BOX_HEAD.NUM_FC": 3}
    built = build_box_head(make_config(keys), POOLED)
    assert isinstance(built, FastRCNNDropoutHead)
    assert built.output_shape == ShapeSpec(channels=WIDTH)
    assert [layer.p for layer in built.modules() if isinstance(layer, nn.Dropout)] == [0.25] * 3
    assert built(torch.randn(5, 6, 7, 7)).shape == (5, WIDTH)


def test_evaluated_it_is_detectron2s_head() -> None:
    ours = head(conv_dims=[4]).eval()
    theirs = FastRCNNConvFCHead(POOLED, conv_dims=[4], fc_dims=[20, 10])
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(5, 6, 7, 7)
    assert torch.equal(ours(x), theirs(x))


def test_dropout_is_for_training_only() -> None:
    """On a layer that gives ones, half become 0 and the others 2."""
    one = head(fc_dims=(4000,))
    nn.init.zeros_(one.fc1.weight)
    nn.init.ones_(one.fc1.bias)
    x = torch.randn(2, 6, 7, 7)
    outputs = one(x)
    assert set(outputs.unique().tolist()) == {0.0, 2.0}
    assert outputs.mean().item() == pytest.approx(1.0, abs=0.1)
    assert torch.equal(one.eval()(x), torch.ones(2, 4000))


def test_the_last_layer_is_followed_by_dropout_too() -> None:
    two = head()
    nn.init.ones_(two.fc2.bias)
    x = torch.randn(200, 6, 7, 7)
    dropped = (two(x) == 0) & (two.eval()(x) > 0)
    assert 0.2 < dropped.float().mean() < 0.6


@pytest.mark.parametrize("regions", [0, 3])
def test_every_parameter_gets_a_gradient(regions: int) -> None:
    one = head(conv_dims=[4])
    one(torch.randn(regions, 6, 7, 7)).sum().backward()
    require_finite_gradients(one)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fc_dims": ()}, r"NUM_FC is 0"),
        ({"dropout": 1.0}, r"DROPOUT is 1\.0"),
        ({"dropout": -0.1}, r"DROPOUT is -0\.1"),
    ],
)
def test_impossible_settings_name_the_key(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=rf"MODEL\.ROI_BOX_HEAD\.{said}"):
        head(**options)


# --------------------------------------------------------------------------------------- detector


def sample(objects: int, proposals: int) -> dict[str, Any]:
    """An image of 64 x 96 pixels."""
    corners = torch.rand(objects + proposals, 2) * 40
    boxes = torch.cat([corners, corners + 8 + torch.rand(objects + proposals, 2) * 14], dim=1)
    given, truth = Instances((64, 96)), Instances((64, 96))
    truth.gt_boxes = Boxes(boxes[:objects])
    truth.gt_classes = torch.arange(objects) % 3
    given.proposal_boxes = Boxes(boxes[objects:])
    given.objectness_logits = torch.randn(proposals)
    image = torch.randint(256, (3, 64, 96), dtype=torch.uint8)
    return {
        "image": image, "height": 128, "width": 192, "instances": truth, "proposals": given,
    }  # fmt: skip


@pytest.mark.parametrize(
    "contents",
    [[(2, 30), (1, 20)], [(2, 30), (0, 20)], [(2, 0), (1, 20)], [(0, 5), (0, 5)], [(0, 0)]],
    ids=["all", "no objects in one", "no proposals in one", "no objects", "nothing"],
)
def test_losses_and_gradients(contents: list[tuple[int, int]]) -> None:
    model = build_model(make_config())
    with EventStorage():
        losses = model([sample(*content) for content in contents])
    assert set(losses) == {"loss_cls", "loss_box_reg"}
    total = sum(losses.values())
    assert torch.isfinite(total)
    assert (total > 0) == (contents != [(0, 0)])
    total.backward()
    require_finite_gradients(model)


def test_detections_are_boxes_in_the_original_image() -> None:
    model = build_model(make_config({"MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0})).eval()
    with torch.no_grad():
        some, none = model([sample(0, 20), sample(0, 0)])
    found = some["instances"]
    assert len(found) > 0
    assert found.image_size == (128, 192)
    assert set(found.get_fields()) == {"pred_boxes", "scores", "pred_classes"}
    assert found.pred_boxes.tensor.max() > 96  # twice the size of the input
    assert len(none["instances"]) == 0


def test_the_first_layers_are_kept_and_the_others_trained() -> None:
    """As in Fast R-CNN's paper, section 4.5."""
    model = build_model(make_config())
    for name, value in model.named_parameters():
        frozen = name.startswith(("backbone.block1", "backbone.block2"))
        assert value.requires_grad != frozen, name
    assert not any(isinstance(module, MirroredConv2d) for module in model.modules())


def test_classes_have_box_regressions_of_their_own() -> None:
    predictor = build_model(make_config()).roi_heads.box_predictor
    assert len(predictor.bbox_pred.weight) == 3 * 4
    assert len(predictor.cls_score.weight) == 3 + 1


# ---------------------------------------------------------------------------------------- weights


def small_vgg16() -> nn.Module:
    """torchvision's VGG-16 with few channels."""
    depths = (2, 2, 3, 3, 3)
    layers: list[str | int] = []
    for depth, channels in zip(depths, CHANNELS, strict=True):
        layers += [*[channels] * depth, "M"]
    with torch.device("meta"):
        net = torchvision.models.VGG(torchvision.models.vgg.make_layers(layers), num_classes=7)
        net.classifier[0] = nn.Linear(CHANNELS[-1] * 49, WIDTH)
        net.classifier[3] = nn.Linear(WIDTH, WIDTH)
        net.classifier[6] = nn.Linear(WIDTH, 7)
    # torchvision's own values are all but zero in the classifier.
    for value in net.to_empty(device="cpu").parameters():
        nn.init.normal_(value, std=0.1)
    return net.eval()


def region_features(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The backbone's feature of images of 112 x 112 pixels (that is 7 x 7 cells) and the box head's
    of one region on each, the whole image."""
    features = model.backbone(images)["block5"]
    whole = Boxes(torch.tensor([[0.0, 0.0, 112.0, 112.0]]))
    pooled = model.roi_heads.box_pooler([features], [whole] * len(images))
    return features, model.roi_heads.box_head(pooled)


def require_equal_features(model: nn.Module, net: nn.Module) -> None:
    """fc7 of regions is that of torchvision's classifier on the same cells, in the same order."""
    images = torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        features, vectors = region_features(model.eval(), images)
        expected = net.features[:-1](images)
        torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)
        expected = net.classifier[:6](expected.flatten(1))
        torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=1e-5)
        assert vectors.abs().max() > 0


def load(path: str, overrides: dict[str, Any] = {}) -> tuple[nn.Module, InstSegCheckpointer]:  # noqa: B006
    model = build_model(make_config(overrides))
    checkpointer = InstSegCheckpointer(model)
    checkpointer.load(path)
    return model, checkpointer


PREDICTOR = {
    f"roi_heads.box_predictor.{layer}.{name}"
    for layer in ("cls_score", "bbox_pred")
    for name in ("weight", "bias")
}
BOX_HEAD = {
    f"roi_heads.box_head.fc{number}.{name}" for number in (1, 2) for name in ("weight", "bias")
}


@pytest.mark.parametrize(
    "kind", ["torchvision's", "heuristics", "wrapped", "converted", "other head"]
)
def test_torchvisions_vgg16_fills_backbone_and_box_head(tmp_path: Path, kind: str) -> None:
    net, overrides = small_vgg16(), {}
    path = tmp_path / "vgg16.pth"
    prefix = "module." if kind == "wrapped" else ""
    torch.save({prefix + name: value for name, value in net.state_dict().items()}, path)
    address = str(path)
    if kind == "heuristics":
        address += "?matching_heuristics=True"
    if kind == "converted":
        address = str(tmp_path / "native.safetensors")
        convert_file(str(path), address, Options(keep_classifier=True))
    if kind == "other head":
        overrides = {"MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead"}
    model, checkpointer = load(address, overrides)
    assert checkpointer.report is not None
    assert set(checkpointer.report.missing) == PREDICTOR
    assert checkpointer.report.misshaped == []
    left = {name.removeprefix("backbone.") for name in checkpointer.report.unexpected}
    assert left == {"classifier.6.weight", "classifier.6.bias"}
    require_equal_features(model, net)


def test_without_its_classifier_the_box_head_is_missing(tmp_path: Path) -> None:
    net, path = small_vgg16(), tmp_path / "vgg16.pth"
    state = {n: v for n, v in net.state_dict().items() if not n.startswith("classifier.")}
    torch.save(state, path)
    _, checkpointer = load(str(path))
    assert checkpointer.report is not None
    assert set(checkpointer.report.missing) == PREDICTOR | BOX_HEAD
    assert checkpointer.report.unexpected == []


def test_a_box_head_of_another_width_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "vgg16.pth"
    torch.save(small_vgg16().state_dict(), path)
    model, checkpointer = load(str(path), {"MODEL.ROI_BOX_HEAD.FC_DIM": 8})
    assert checkpointer.report is not None
    misshaped = {name for name, *_ in checkpointer.report.misshaped}
    assert misshaped == BOX_HEAD
    assert torch.isfinite(model.roi_heads.box_head.fc1.weight).all()


def test_a_trained_detector_is_loaded_whole(tmp_path: Path) -> None:
    model = build_model(make_config())
    expected = copy.deepcopy(model.state_dict())
    torch.save({"model": expected}, tmp_path / "model_final.pth")
    again, checkpointer = load(str(tmp_path / "model_final.pth"))
    checkpointer.require_complete()
    assert all(torch.equal(value, expected[name]) for name, value in again.state_dict().items())


@pytest.mark.slow
def test_the_whole_vgg16_fits(tmp_path: Path) -> None:
    net = torchvision.models.vgg16(weights=None, init_weights=False).eval()
    path = tmp_path / "vgg16.pth"
    torch.save(net.state_dict(), path)
    whole = {"MODEL.VGG.CHANNELS": (64, 128, 256, 512, 512), "MODEL.ROI_BOX_HEAD.FC_DIM": 4096}
    model, checkpointer = load(str(path), whole)
    assert checkpointer.report is not None
    assert set(checkpointer.report.missing) == PREDICTOR
    require_equal_features(model, net)
