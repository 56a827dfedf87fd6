"""The whole model, tiny, on the CPU."""

import pytest
import torch
from detectron2.structures import BitMasks, Instances, PolygonMasks

from instseg_d2.config import load_config
from instseg_d2.modeling import build_model
from sparseinst_d2 import (
    BaseIAMDecoder,
    InstanceContextEncoder,
    SparseInst,
    SparseInstCriterion,
    SparseInstMatcher,
)

DECODERS = ("BaseIAMDecoder", "GroupIAMDecoder", "GroupIAMSoftDecoder")


def tiny_model(overrides: list[str], *extra: str) -> SparseInst:
    return build_model(load_config("sparseinst/sparse_inst_r50_base", [*overrides, *extra]))


def batch(*counts: int, size: tuple[int, int] = (60, 90)) -> list[dict]:
    """One input per count, with that many instances."""
    inputs = []
    for count in counts:
        instances = Instances(size)
        instances.gt_classes = torch.randint(6, (count,))
        instances.gt_masks = BitMasks(torch.rand(count, *size) > 0.5)
        image = torch.randint(256, (3, *size), dtype=torch.uint8)
        inputs.append({"image": image, "instances": instances})
    return inputs


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("counts", [(2, 3), (0, 2), (0, 0)])
@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
def test_every_parameter_gets_a_finite_gradient(
    tiny_overrides: list[str], decoder: str, counts: tuple[int, int], norm: str
) -> None:
    model = tiny_model(
        tiny_overrides,
        "MODEL.SPARSE_INST.DECODER.NAME", decoder,
        "MODEL.RESNETS.NORM", norm,
    ).train()  # fmt: skip
    losses = model(batch(*counts))
    assert set(losses) == {"loss_ce", "loss_mask", "loss_dice", "loss_objectness"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def test_losses_go_down(tiny_overrides: list[str]) -> None:
    model = tiny_model(tiny_overrides, "MODEL.RESNETS.NORM", "BN").train()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    inputs = batch(2, 3)
    history = []
    for _ in range(15):
        loss = sum(model(inputs).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.8 * history[0]


@pytest.mark.parametrize("size", [(60, 90), (64, 64), (33, 31), (1, 1), (200, 20)])
def test_inference_at_any_size(tiny_overrides: list[str], size: tuple[int, int]) -> None:
    model = tiny_model(tiny_overrides).eval()
    # Untrained masks are flat; these have pixels on both sides of the threshold.
    torch.nn.init.normal_(model.decoder.inst_branch.mask_kernel.bias)
    image = torch.randint(256, (3, *size), dtype=torch.uint8)
    with torch.no_grad():
        (result,) = model([{"image": image, "height": 77, "width": 55}])
    instances = result["instances"]
    assert len(instances) > 0
    assert instances.image_size == (77, 55)
    assert instances.pred_masks.shape == (len(instances), 77, 55)
    assert set(instances.get_fields()) == {"pred_boxes", "scores", "pred_classes", "pred_masks"}


def test_channels_last_changes_nothing_but_rounding(tiny_overrides: list[str]) -> None:
    plain = tiny_model(tiny_overrides).eval()
    other = tiny_model(tiny_overrides, "MODEL.CHANNELS_LAST", "True").eval()
    other.load_state_dict(plain.state_dict())
    assert other.backbone.stem.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    image = torch.randn(1, 3, 64, 96)
    expected = plain.decoder(plain.encoder(plain.backbone(image)))
    actual = other.decoder(other.encoder(other.backbone(image)))
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-3, atol=1e-3)


def test_output_size_defaults_to_the_image(tiny_overrides: list[str]) -> None:
    model = tiny_model(tiny_overrides).eval()
    with torch.no_grad():
        (result,) = model([{"image": torch.zeros(3, 40, 50)}])
    assert result["instances"].image_size == (40, 50)


def test_polygon_ground_truth_is_rasterised(tiny_overrides: list[str]) -> None:
    model = tiny_model(tiny_overrides).train()
    square = torch.zeros(1, 60, 90, dtype=torch.bool)
    square[0, 10:30, 20:50] = True
    as_masks, as_polygons = batch(1)[0], batch(1)[0]
    as_polygons["image"] = as_masks["image"]
    for inputs, masks in (
        (as_masks, BitMasks(square)),
        (as_polygons, PolygonMasks([[[20, 10, 50, 10, 50, 30, 20, 30]]])),
    ):
        inputs["instances"].gt_classes = torch.tensor([3])
        inputs["instances"].gt_masks = masks
    for name, value in model([as_masks]).items():
        torch.testing.assert_close(model([as_polygons])[name], value)


def test_builds_without_a_config(tiny_overrides: list[str]) -> None:
    backbone = tiny_model(tiny_overrides).backbone
    shapes = backbone.output_shape()
    names = ["res3", "res4", "res5"]
    model = SparseInst(
        backbone=backbone,
        encoder=InstanceContextEncoder(
            in_channels=[shapes[name].channels for name in names], in_features=names, channels=8
        ),
        decoder=BaseIAMDecoder(in_channels=8, num_masks=4, num_classes=2, inst_dim=8, mask_dim=8),
        criterion=SparseInstCriterion(matcher=SparseInstMatcher()),
        pixel_mean=[0, 0, 0],
        pixel_std=[1, 1, 1],
    )
    assert len(model.eval()(batch(0))) == 1


def test_training_without_a_criterion_is_refused(tiny_overrides: list[str]) -> None:
    model = tiny_model(tiny_overrides).train()
    model.criterion = None
    with pytest.raises(ValueError, match="criterion"):
        model(batch(1))


def test_normalisation_is_not_part_of_the_checkpoint(tiny_overrides: list[str]) -> None:
    assert not any(name.startswith("pixel_") for name in tiny_model(tiny_overrides).state_dict())
