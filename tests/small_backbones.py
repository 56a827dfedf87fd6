"""Backbones with all the layers of real ones, but few channels, and nothing around them."""

from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import nn

from instseg_d2.config import load_config


def small_resnet(tiny_overrides, *overrides):
    """Detectron2's ResNet-50, or what the overrides below ``MODEL.RESNETS`` make of it, as the
    part ``backbone`` of a model."""
    prefixed = [
        text if index % 2 else f"MODEL.RESNETS.{text}" for index, text in enumerate(overrides)
    ]
    cfg = load_config("sparseinst/sparse_inst_r50_giam", [*tiny_overrides, *prefixed])
    return only_backbone(cfg)


def only_backbone(cfg):
    """A model with a backbone and nothing else, with random statistics."""
    model = nn.ModuleDict({"backbone": build_backbone(cfg, ShapeSpec(channels=3))})
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
        elif buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return model


def native_state(model):
    """The weights of the backbone under names without prefix, as copies."""
    return {name: value.clone() for name, value in model["backbone"].state_dict().items()}
