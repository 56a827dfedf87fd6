"""SharpMask as a whole, small, on the CPU, and every config of both architectures."""

from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch.nn import functional as F

from instseg_d2.errors import ConfigError
from instseg_d2.solver import build_lr_scheduler, build_optimizer
from sharpmask_d2.deepmask import DeepMask
from sharpmask_d2.heads import resize_masks
from sharpmask_d2.padding import MirroredConv2d
from sharpmask_d2.refinement import refactored_state
from sharpmask_d2.sharpmask import SharpMask
from tests.sharpmask_d2.small_networks import (
    count,
    make_config,
    patches,
    require_finite_gradients,
    slim_config,
    small_config,
    small_model,
)

CONFIGS = [
    path
    for path in sorted((Path(__file__).parents[2] / "configs" / "sharpmask").glob("*.yaml"))
    if "fast" not in path.stem.lower()  # Fast R-CNN is Detectron2's architecture
]
TRAINED = ("refinement.",)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_trains_one_step(path: Path) -> None:
    train_one_step(slim_config(path))


#: MODEL.* of a SharpMask.
UNPUBLISHED: dict[str, dict[str, Any]] = {
    "paper layout": {"SHARP_MASK.REFINEMENT.LAYOUT": "paper"},
    "paper layout of the baseline": {
        "SHARP_MASK.REFINEMENT.LAYOUT": "paper",
        "SHARP_MASK.REFINEMENT.NAME": "Multiscale",
    },
    "zeros": {"SHARP_MASK.PADDING": "zeros"},
    "VGG-D": {
        "BACKBONE.NAME": "build_vgg_backbone",
        "VGG.DEPTH": 16,
        "VGG.OUT_FEATURES": ["block2", "block3", "block4", "block5"],
        "SHARP_MASK.TRUNK.FEATURE": "block5",
    },
}


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize("name", UNPUBLISHED)
def test_settings_of_no_config_train_one_step(name: str, freeze: bool) -> None:
    cfg = small_config("SharpMask", FREEZE_FEEDFORWARD=freeze)
    for key, value in UNPUBLISHED[name].items():
        cfg.merge_from_list([f"MODEL.{key}", value])
    model = train_one_step(cfg)
    if name == "VGG-D":
        assert [len(block) for block in model.backbone.children()] == [2, 2, 3, 3, 3]
    padded = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and any(m.padding)]
    mirrored = [m for m in padded if isinstance(m, MirroredConv2d)]
    assert len(mirrored) == (0 if name == "zeros" else len(padded))


def train_one_step(cfg: CfgNode) -> torch.nn.Module:
    """What is to learn gets a gradient and moves; nothing else does."""
    model = build_model(cfg).train()
    loss = sum(model(patches(model, "m+")).values())
    loss.backward()
    require_finite_gradients(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.optim.SGD([v for v in model.parameters() if v.requires_grad], 1e-2).step()
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed
    if cfg.MODEL.META_ARCHITECTURE == "SharpMask" and cfg.MODEL.SHARP_MASK.FREEZE_FEEDFORWARD:
        assert all(name.startswith(TRAINED) for name in changed)
    return model


def test_there_are_configs() -> None:
    assert {path.stem for path in CONFIGS} >= {"deepmask_r50", "sharpmask_r50"}


@pytest.mark.parametrize(
    "path", [x for x in CONFIGS if x.stem.startswith("sharpmask_")], ids=lambda path: path.stem
)
def test_second_stages_start_from_a_config_with_the_same_deepmask(path: Path) -> None:
    """By weights and by padding, which the weights do not show."""
    cfg = make_config(path)
    folder = Path(cfg.MODEL.WEIGHTS).parent
    other = make_config(path.with_name(f"{folder.name}.yaml"))
    assert Path(other.OUTPUT_DIR) == folder
    for key in ("PADDING", "STEM_PADDING", "WINDOW_SIZE", "CONTEXT", "TRUNK", "HEAD"):
        assert cfg.MODEL.SHARP_MASK[key] == other.MODEL.SHARP_MASK[key], key
    assert cfg.MODEL.BACKBONE == other.MODEL.BACKBONE
    with torch.device("meta"):
        deepmask, sharpmask = DeepMask(other), SharpMask(cfg)
    shapes = {name: value.shape for name, value in sharpmask.state_dict().items()}
    for name, value in deepmask.state_dict().items():
        assert shapes.pop(name) == value.shape, name
    assert all(name.startswith(TRAINED) for name in shapes)


#: Iteration -> learning rate; an epoch is 4000 iterations. fvcore may be one too early.
RATES = {
    "DeepMask": {0: 1e-3, 199_998: 1e-3, 200_000: 5e-4, 479_998: 5e-4, 480_000: 1e-4},
    "SharpMask": {0: 1e-3, 199_998: 1e-3, 200_000: 5e-4, 319_998: 5e-4, 320_000: 1e-4},
}


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if "finetune" not in path.stem], ids=lambda path: path.stem
)
def test_the_authors_schedules(path: Path) -> None:
    cfg = make_config(path)
    architecture = cfg.MODEL.META_ARCHITECTURE
    optimizer = build_optimizer(cfg, torch.nn.Linear(2, 2))
    (group,) = optimizer.param_groups
    assert type(optimizer) is torch.optim.SGD
    coarse = architecture == "DeepMask"
    assert (group["momentum"], group["weight_decay"]) == ((0.9, 5e-4) if coarse else (0, 0))
    assert cfg.SOLVER.IMS_PER_BATCH == 32
    scheduler = build_lr_scheduler(cfg, optimizer)
    for iteration, rate in {**RATES[architecture], 1_199_998: 1e-4}.items():
        scheduler.last_epoch = iteration
        assert scheduler.get_lr() == [pytest.approx(rate)], iteration


@pytest.mark.parametrize("kinds", ["mm+-", "mmm", "+-"])
@pytest.mark.parametrize("name", ["Refinement", "Multiscale"])
def test_frozen_only_the_refinement_learns(kinds: str, name: str) -> None:
    model = small_model("SharpMask", REFINEMENT__NAME=name).train()
    losses = model(patches(model, kinds))
    assert set(losses) == {"loss_mask"}
    assert (losses["loss_mask"].item() == 0) == ("m" not in kinds)
    losses["loss_mask"].backward()
    require_finite_gradients(model)
    learning = [key for key, value in model.named_parameters() if value.requires_grad]
    assert learning
    assert all(key.startswith(TRAINED) for key in learning)


def test_what_is_frozen_stays_in_eval_mode() -> None:
    cfg = small_config("SharpMask")
    cfg.MODEL.RESNETS.NORM = "BN"
    model = build_model(cfg).train()
    before = {name: value.clone() for name, value in model.backbone.named_buffers()}
    model(patches(model, "m+"))
    for name, value in model.backbone.named_buffers():
        assert torch.equal(value, before[name]), name
    assert not any(module.training for module in model.head.modules())
    assert model.refinement.training
    assert not model.eval().refinement.training


@pytest.mark.parametrize("kinds", ["mm+-", "mmm", "+-"])
def test_unfrozen_everything_learns(kinds: str) -> None:
    model = small_model("SharpMask", FREEZE_FEEDFORWARD=False).train()
    losses = model(patches(model, kinds))
    assert set(losses) == {"loss_mask", "loss_coarse", "loss_score"}
    sum(losses.values()).backward()
    require_finite_gradients(model)
    assert all(value.requires_grad for value in model.parameters())


@pytest.mark.parametrize("freeze", [True, False])
def test_losses_are_those_of_the_predictions(freeze: bool) -> None:
    model = small_model("SharpMask", FREEZE_FEEDFORWARD=freeze, HEAD__DROPOUT=0.0)
    batch = patches(model, "+m-m")
    losses = model.train()(batch)
    with torch.no_grad():
        answers = model.eval()(batch)
    for loss, answer in (("loss_mask", "mask_logits"), ("loss_coarse", "coarse_logits")):
        each = [
            F.soft_margin_loss(answers[row][answer], batch[row]["gt_mask"].float() * 2 - 1)
            for row in (1, 3)
        ]
        if loss in losses:
            torch.testing.assert_close(losses[loss], 32 * sum(each) / 4)


def test_a_deepmask_checkpoint_is_where_it_starts() -> None:
    coarse, sharp = small_model("DeepMask"), small_model("SharpMask").eval()
    result = sharp.load_state_dict(coarse.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert all(name.startswith(TRAINED) for name in result.missing_keys)
    batch = patches(sharp, "m+")
    for ours, theirs in zip(sharp(batch), coarse.eval()(batch), strict=True):
        torch.testing.assert_close(ours["score_logit"], theirs["score_logit"])
        torch.testing.assert_close(ours["coarse_logits"], theirs["mask_logits"])
    _, output = coarse.patch_output(coarse.preprocess(batch))
    expected = resize_masks(coarse.head.masks(output.encoding.flatten(1)), 64)
    actual = torch.stack([answer["coarse_logits"] for answer in sharp(batch)])
    torch.testing.assert_close(actual, expected)


def test_one_network_answers_sharp_or_coarse() -> None:
    model = small_model("SharpMask").eval()
    (sharp,) = model(patches(model, "m"))
    assert set(sharp) == {"mask_logits", "coarse_logits", "score_logit"}
    assert sharp["mask_logits"].shape == sharp["coarse_logits"].shape == (64, 64)
    assert not torch.allclose(sharp["mask_logits"], sharp["coarse_logits"])
    batch = patches(model, "m")
    torch.testing.assert_close(model(batch)[0]["coarse_logits"], coarse_answer(model, batch))
    other = small_model("SharpMask", OUTPUT="coarse").eval()
    (answer,) = other(batch)
    assert torch.equal(answer["mask_logits"], answer["coarse_logits"])


def coarse_answer(model: torch.nn.Module, batch: list[dict]) -> torch.Tensor:
    model.output = "coarse"
    (answer,) = model(batch)
    model.output = "sharp"
    return answer["mask_logits"]


def test_both_forms_give_the_same_masks_in_the_whole_model() -> None:
    original = small_model("SharpMask", REFINEMENT__FORM="original").eval()
    refactored = small_model("SharpMask").eval()
    refactored.load_state_dict(refactored_state(original.state_dict()), strict=True)
    batch = patches(original, "m+")
    for ours, theirs in zip(refactored(batch), original(batch), strict=True):
        torch.testing.assert_close(ours["mask_logits"], theirs["mask_logits"])


def test_skips_are_cropped_by_the_context() -> None:
    model = small_model("SharpMask").eval()
    features, _ = model.patch_output(torch.randn(1, 3, 96, 96))
    cells = {name: value.shape[-1] for name, value in features.items()}
    assert cells == {"stem": 32, "res2": 16, "res3": 8, "res4": 4}
    assert model.skip_features == ("res4", "res3", "res2", "stem")
    whole = model.backbone(torch.arange(3.0 * 96 * 96).view(1, 3, 96, 96))
    cropped = model.crop_context(whole)
    assert torch.equal(cropped["stem"], whole["stem"][..., 8:40, 8:40])
    assert torch.equal(cropped["res4"], whole["res4"][..., 1:5, 1:5])


def test_a_trunk_of_stride_8_has_three_steps() -> None:
    cfg = small_config(
        "SharpMask", TRUNK__FEATURE="res3", REFINEMENT__HORIZONTAL_CHANNELS=(4, 4, 4)
    )
    cfg.MODEL.RESNETS.OUT_FEATURES = ["stem", "res2", "res3"]
    model = build_model(cfg).train()
    assert model.skip_features == ("res3", "res2", "stem")
    model(patches(model, "m"))["loss_mask"].backward()
    require_finite_gradients(model)


def test_vgg_has_skips_as_well() -> None:
    cfg = small_config("SharpMask", TRUNK__FEATURE="block5")
    cfg.MODEL.BACKBONE.NAME = "build_vgg_backbone"
    cfg.MODEL.VGG.OUT_FEATURES = ["block1", "block2", "block3", "block4", "block5"]
    model = build_model(cfg).train()
    assert model.skip_features == ("block5", "block4", "block3", "block2")
    model(patches(model, "m"))["loss_mask"].backward()
    require_finite_gradients(model)


def test_full_size_refinement_has_under_three_million_parameters() -> None:
    overrides = {
        "MODEL.RESNETS.OUT_FEATURES": ["stem", "res2", "res3", "res4"],
    }
    with torch.device("meta"):
        model = SharpMask(make_config(overrides=overrides))
    assert count(model.refinement) < 3e6
    assert count(model) - count(model.refinement) == pytest.approx(17.4e6, abs=0.05e6)


@pytest.mark.parametrize("name", ["Refinement", "Multiscale"])
def test_mixed_precision_trains(name: str) -> None:
    model = small_model("SharpMask", REFINEMENT__NAME=name).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(patches(model, "m+"))
    assert losses["loss_mask"].dtype == torch.float32
    losses["loss_mask"].backward()
    require_finite_gradients(model)


def test_channels_last_changes_nothing_but_rounding() -> None:
    plain, other = small_model("SharpMask"), small_model("SharpMask")
    other.load_state_dict(plain.state_dict())
    other.to(memory_format=torch.channels_last)
    batch = patches(plain, "mm+")
    expected, actual = plain.eval()(batch), other.eval()(batch)
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(other.train()(batch), plain.train()(batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"REFINEMENT__CHANNELS": 24}, r"CHANNELS is 24.*multiple of 16"),
        ({"REFINEMENT__HORIZONTAL_CHANNELS": (4, 4, 4)}, r"HORIZONTAL_CHANNELS must have 4"),
        ({"REFINEMENT__NAME": "Skip"}, r"REFINEMENT\.NAME is 'Skip'.*Multiscale"),
        ({"OUTPUT": "both"}, r"SHARP_MASK\.OUTPUT is 'both'.*sharp, coarse"),
        ({"WINDOW_SIZE": 72}, r"WINDOW_SIZE is 72"),
        ({"TRUNK__FEATURE": "res3"}, r"gives res4, deeper than .*TRUNK\.FEATURE res3"),
    ],
)
def test_impossible_settings_name_the_key(settings: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_model(small_config("SharpMask", **settings))


def test_absent_skip_features_are_named() -> None:
    cfg = small_config("SharpMask")
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res4"]
    said = r"needs features of the strides 16, 8, 4, 2.*res2 \(4\), res4 \(16\).*those of 8, 2"
    with pytest.raises(ConfigError, match=said):
        build_model(cfg)
