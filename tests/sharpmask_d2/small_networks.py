"""DeepMask and SharpMask, small enough for seconds of training on a CPU."""

from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.modeling import build_model
from torch import nn

import sharpmask_d2.backbones
import sharpmask_d2.sharpmask  # noqa: F401  (registers both architectures)
from instseg_d2.config import add_shared_config
from sharpmask_d2.config import add_sharpmask_config

#: Widths alone: what a config says of the architecture stays.
SLIM = {
    "MODEL.DEVICE": "cpu",
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.VGG.CHANNELS": (4, 8, 8, 16, 16),
    "MODEL.SHARP_MASK.HEAD.ENCODING_DIM": 16,
    "MODEL.SHARP_MASK.HEAD.SCORE_DIM": 16,
    "MODEL.SHARP_MASK.HEAD.MASK_SIZE": 14,
    "MODEL.SHARP_MASK.REFINEMENT.CHANNELS": 16,
    "MODEL.SHARP_MASK.REFINEMENT.HORIZONTAL_CHANNELS": (8, 4, 4, 6),
    "MODEL.SHARP_MASK.LOSS.MASK_SIZE": 28,
}


def slim_config(file: Path) -> CfgNode:
    """A config file's, with its windows, trunk, head and refinement, but few channels."""
    key = "MODEL.SHARP_MASK.REFINEMENT.HORIZONTAL_CHANNELS"
    steps = len(make_config(file).MODEL.SHARP_MASK.REFINEMENT.HORIZONTAL_CHANNELS)
    return make_config(file, {**SLIM, key: SLIM[key][:steps]})


def make_config(file: Path | None = None, overrides: dict[str, Any] = {}) -> CfgNode:  # noqa: B006
    """Defaults (those of torchvision's ResNet), a config file if any, then the overrides."""
    cfg = get_detectron2_cfg()
    add_shared_config(cfg)
    add_sharpmask_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_mirrored_resnet_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.STRIDE_IN_1X1 = False
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.280, 103.530]
    cfg.MODEL.PIXEL_STD = [58.395, 57.120, 57.375]
    cfg.MODEL.DEVICE = "cpu"
    if file is not None:
        cfg.merge_from_file(str(file))
    cfg.merge_from_list([part for pair in overrides.items() for part in pair])
    return cfg


def small_config(architecture: str = "DeepMask", **sharp_mask: Any) -> CfgNode:
    """Slim, with windows of 64 pixels; keys of ``MODEL.SHARP_MASK`` with ``__`` for the dot."""
    keys = {
        f"MODEL.SHARP_MASK.{key.replace('__', '.')}": value for key, value in sharp_mask.items()
    }
    small = {
        "MODEL.META_ARCHITECTURE": architecture,
        "MODEL.RESNETS.OUT_FEATURES": ["stem", "res2", "res3", "res4"],
        "MODEL.SHARP_MASK.WINDOW_SIZE": 64,
        "MODEL.SHARP_MASK.TRUNK.CHANNELS": 8,
    }
    return make_config(overrides={**SLIM, **small, **keys})


def small_model(architecture: str = "DeepMask", **sharp_mask: Any) -> nn.Module:
    return build_model(small_config(architecture, **sharp_mask))


def patches(model: nn.Module, kinds: str) -> list[dict[str, Any]]:
    """One training patch per letter: m: a mask, +: an object, -: none."""
    side = model.window_size + 2 * model.context
    samples = []
    for kind in kinds:
        sample = {"image": torch.randint(256, (3, side, side), dtype=torch.uint8)}
        sample["kind"] = "mask" if kind == "m" else "score"
        sample["label"] = -1 if kind == "-" else 1
        if kind == "m":
            sample["gt_mask"] = torch.rand(model.mask_size, model.mask_size) > 0.5
        samples.append(sample)
    return samples


def require_finite_gradients(model: nn.Module) -> None:
    """Every trainable parameter must have got one."""
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name


def count(module: nn.Module, *, trainable: bool = False) -> int:
    """Parameters; by default the scale and shift of frozen norms with them."""
    values = dict(module.named_parameters())
    if not trainable:
        values |= {
            name: value
            for name, value in module.named_buffers()
            if name.endswith(("weight", "bias"))
        }
    return sum(value.numel() for value in values.values())
