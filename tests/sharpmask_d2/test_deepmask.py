"""DeepMask as a whole, small, on the CPU."""

import pytest
import torch
from detectron2.modeling import build_model
from torch.nn import functional as F

from instseg_d2.errors import ConfigError
from sharpmask_d2.backbones import VGG
from sharpmask_d2.deepmask import DeepMask
from sharpmask_d2.heads import Head, resize_masks
from tests.sharpmask_d2.small_networks import (
    count,
    make_config,
    patches,
    require_finite_gradients,
    small_config,
    small_model,
)


@pytest.mark.parametrize("kinds", ["mm+-", "mmm", "+-", "-"])
def test_every_parameter_gets_a_finite_gradient(kinds: str) -> None:
    model = small_model().train()
    losses = model(patches(model, kinds))
    assert set(losses) == {"loss_mask", "loss_score"}
    assert (losses["loss_mask"].item() == 0) == ("m" not in kinds)
    assert (losses["loss_score"].item() == 0) == (kinds == "mmm")
    sum(losses.values()).backward()
    require_finite_gradients(model)


def test_losses_are_those_of_the_predictions() -> None:
    """Also in a mixed order, and with weights of its own for each."""
    model = small_model(LOSS__MASK_WEIGHT=3.0, LOSS__SCORE_WEIGHT=5.0, HEAD__DROPOUT=0.0)
    batch = patches(model, "m-+m+")
    losses = model.train()(batch)
    with torch.no_grad():
        answers = model.eval()(batch)
        _, output = model.patch_output(model.preprocess(batch))
        masks = model.coarse_masks(output.encoding.flatten(1), 28)
    of_masks = [
        F.soft_margin_loss(masks[row], batch[row]["gt_mask"].float() * 2 - 1) for row in (0, 3)
    ]
    of_scores = [
        F.softplus(-batch[row]["label"] * answers[row]["score_logit"]) for row in (1, 2, 4)
    ]
    torch.testing.assert_close(losses["loss_mask"], 3 * sum(of_masks) / 5)
    torch.testing.assert_close(losses["loss_score"], 5 * sum(of_scores) / 5)


def test_losses_go_down() -> None:
    model = small_model(HEAD__DROPOUT=0.0).train()
    batch = patches(model, "mm+-")
    for sample in batch[:2]:  # a square, which a coarse mask can show
        sample["gt_mask"] = torch.zeros(28, 28, dtype=torch.bool)
        sample["gt_mask"][5:20, 5:20] = True
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    history = []
    for _ in range(15):
        loss = sum(model(batch).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(loss.item())
    assert history[-1] < 0.5 * history[0]


def test_inference_answers_for_every_patch() -> None:
    model = small_model().eval()
    batch = [{"image": sample["image"]} for sample in patches(model, "m+-")]
    answers = model.predict_patches(batch)
    assert [set(answer) for answer in answers] == [{"mask_logits", "score_logit"}] * 3
    assert all(answer["mask_logits"].shape == (64, 64) for answer in answers)
    assert all(answer["score_logit"].shape == () for answer in answers)
    alone = model.predict_patches(batch[1:2])[0]
    torch.testing.assert_close(answers[1]["mask_logits"], alone["mask_logits"])
    torch.testing.assert_close(answers[1]["score_logit"], alone["score_logit"])
    as_float = model.predict_patches([{"image": batch[1]["image"].float()}])[0]
    torch.testing.assert_close(as_float["mask_logits"], alone["mask_logits"])


def test_a_patch_is_a_window_of_the_whole_image() -> None:
    """Where the context is wide enough to hide the mirrored edges."""
    trunk = VGG(channels=(4,) * 5, out_features=["block2"])
    head = Head(in_channels=4, cells=8, channels=3, encoding_dim=6, score_dim=5, mask_size=4)
    model = DeepMask(
        backbone=trunk, head=head, feature="block2", window_size=16, context=8, mask_size=8,
        pixel_mean=[100, 110, 120], pixel_std=[50, 60, 70],
    ).eval()  # fmt: skip
    image = torch.randint(256, (3, 64, 48), dtype=torch.uint8)
    output = model.head(model.backbone(model.normalise(image)[None])["block2"])
    y, x = 12, 20  # of the window; multiples of the stride
    patch = {"image": image[:, y - 8 : y + 24, x - 8 : x + 24]}
    (answer,) = model.predict_patches([patch])
    encoding = output.encoding[..., y // 2, x // 2]
    torch.testing.assert_close(
        answer["mask_logits"], resize_masks(head.masks(encoding), 16)[0], rtol=1e-4, atol=1e-5
    )
    score = output.score_logits[0, 0, y // 2, x // 2]
    torch.testing.assert_close(answer["score_logit"], score, rtol=1e-4, atol=1e-5)


def test_full_size_has_the_parameters_of_the_paper() -> None:
    with torch.device("meta"):
        model = DeepMask(make_config())
    assert count(model) / 1e6 == pytest.approx(17.4, abs=0.05)


def test_mixed_precision_keeps_the_losses_in_float32() -> None:
    model = small_model().train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(patches(model, "mm+-"))
    assert {value.dtype for value in losses.values()} == {torch.float32}
    sum(losses.values()).backward()
    require_finite_gradients(model)


def test_normalisation_is_not_part_of_the_checkpoint() -> None:
    assert not any(name.startswith("pixel_") for name in small_model().state_dict())


@pytest.mark.parametrize("size", [(64, 96), (95, 96), (96, 160)])
def test_a_patch_of_another_size_is_refused(size: tuple[int, int]) -> None:
    model = small_model()
    said = rf"patch of {size[0]} x {size[1]} pixels.*WINDOW_SIZE 64 and .*CONTEXT 16 need 96 x 96"
    with pytest.raises(ConfigError, match=said):
        model.eval()([{"image": torch.zeros(3, *size), "kind": "score"}])


def test_wrong_targets_are_refused() -> None:
    model = small_model().train()
    batch = patches(model, "m")
    batch[0]["gt_mask"] = torch.zeros(64, 64, dtype=torch.bool)
    with pytest.raises(ConfigError, match=r"gt_mask of size \(64, 64\).*\(28, 28\) is wanted"):
        model(batch)
    batch[0]["kind"] = "masks"
    with pytest.raises(ConfigError, match=r"'masks'.*mask, score"):
        model(batch)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"WINDOW_SIZE": 100}, r"WINDOW_SIZE is 100, but must be a multiple of 16.*res4"),
        ({"WINDOW_SIZE": 0}, r"WINDOW_SIZE is 0, but must be a multiple of 16"),
        ({"CONTEXT": 8}, r"CONTEXT is 8, but must be a multiple of 16"),
        ({"CONTEXT": -16}, r"CONTEXT is -16, but must be a multiple of 16"),
        ({"TRUNK__FEATURE": "res5"}, r"FEATURE is 'res5', but the backbone gives .*res4"),
        ({"TRUNK__FEATURE": "block5"}, r"FEATURE is 'block5'.*OUT_FEATURES"),
        ({"HEAD__NAME": "c"}, r"HEAD\.NAME is 'c'"),
        ({"HEAD__NAME": "original"}, r"TRUNK\.CHANNELS 0"),
        ({"PADDING": "same"}, r"PADDING is 'same'"),
        ({"LOSS__MASK_SIZE": 0}, r"SHARP_MASK\.LOSS\.MASK_SIZE is 0, .* at least 1"),
        ({"HEAD__MASK_SIZE": 0}, r"SHARP_MASK\.HEAD\.MASK_SIZE is 0, .* at least 1"),
        ({"HEAD__ENCODING_DIM": 0}, r"HEAD\.ENCODING_DIM is 0, .* at least 1"),
        ({"HEAD__SCORE_DIM": 0}, r"HEAD\.SCORE_DIM is 0, .* at least 1"),
        ({"TRUNK__CHANNELS": -1}, r"TRUNK\.CHANNELS is -1, .* at least 0"),
        ({"HEAD__DROPOUT": 1.5}, r"HEAD\.DROPOUT is 1\.5, but must be from 0 to 1"),
        ({"HEAD__DROPOUT": -0.1}, r"HEAD\.DROPOUT is -0\.1"),
        (
            {"TRUNK__FEATURE": "res3"},
            r"gives res4, deeper than .*TRUNK\.FEATURE res3.*OUT_FEATURES \(MODEL\.RESNETS or",
        ),
    ],
)
def test_impossible_settings_name_the_key(settings: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_model(small_config(**settings))


def test_what_is_deeper_is_told_by_stride_then_by_name() -> None:
    """Dilated, ``res5`` has the stride of ``res4``."""
    cfg = small_config()
    cfg.MODEL.RESNETS.RES5_DILATION = 2
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4", "res5"]
    with pytest.raises(ConfigError, match=r"gives res5, deeper than .*FEATURE res4"):
        build_model(cfg)
    cfg.MODEL.SHARP_MASK.TRUNK.FEATURE = "res5"
    assert build_model(cfg).stride == 16


def test_no_context_is_possible() -> None:
    model = small_model(CONTEXT=0).train()
    sum(model(patches(model, "m+")).values()).backward()
    require_finite_gradients(model)
