"""ResNet-vd (timm calls it ResNet-D), with deformable convolutions where wanted.

"Bag of Tricks for Image Classification with CNNs" (arXiv 1812.01187, section 4.1, model D): three
3x3 convolutions in place of the 7x7 one, and average pooling before the 1x1 of a shortcut.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import timm
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor

from instseg_d2.errors import ConfigError
from instseg_d2.layers.deform_conv import DeformConv, ModulatedDeformConv, OffsetConv

from .stages import StagedBackbone, freeze_first, set_norm

BLOCKS = {18: BasicBlock, 34: BasicBlock} | dict.fromkeys((50, 101, 152, 200), Bottleneck)
"""The depths that timm has, and their blocks."""

STAGES = ("layer1", "layer2", "layer3", "layer4")
"""Names of the modules behind the features ``res2`` to ``res5``."""


class DeformBottleneck(Bottleneck):
    """timm's bottleneck with a deformable 3x3 convolution."""

    def __init__(
        self,
        *args: Any,
        deform_modulated: bool = False,
        deform_num_groups: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        regular: Any = self.conv2
        if regular.in_channels % deform_num_groups:
            raise ConfigError(
                f"MODEL.RESNETS.DEFORM_NUM_GROUPS is {deform_num_groups}, which does not divide "
                f"{regular.in_channels} channels"
            )
        self.conv2_offset = OffsetConv(
            regular.in_channels,
            stride=regular.stride,
            padding=regular.padding,
            dilation=regular.dilation,
            deformable_groups=deform_num_groups,
            modulated=deform_modulated,
        )
        conv_class: Any = ModulatedDeformConv if deform_modulated else DeformConv
        self.conv2 = conv_class(
            regular.in_channels,
            regular.out_channels,
            3,
            stride=regular.stride,
            padding=regular.padding,
            dilation=regular.dilation,
            groups=regular.groups,
            deformable_groups=deform_num_groups,
            bias=False,
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.bn2(self.conv2(x, *self.conv2_offset(x))))
        x = self.bn3(self.conv3(x))
        return self.act3(x + shortcut)


class ResNetVD(StagedBackbone):
    """timm's ``resnet50d`` and its relatives; features ``res2`` to ``res5`` at strides 4 to 32."""

    #: The stem's last norm can become part of the convolution before it; see ``fold_norms``.
    conv_norm_pairs = (("conv1", "bn1"),)

    @configurable
    def __init__(
        self,
        *,
        depth: int = 50,
        out_features: Sequence[str] = ("res3", "res4", "res5"),
        norm: str = "FrozenBN",
        freeze_at: int = 0,
        deform_on_per_stage: Sequence[bool] = (False, False, False, False),
        deform_modulated: bool = False,
        deform_num_groups: int = 1,
        num_groups: int = 1,
        width_per_group: int = 64,
        res5_dilation: int = 1,
    ) -> None:
        """
        Args:
            depth: a key of :data:`BLOCKS`.
            out_features: of ``res2`` to ``res5``.
            norm: one of :data:`.stages.NORMS`.
            freeze_at: 0: nothing is frozen, 1: the stem, 2: the stem and ``res2``, and so on.
            deform_on_per_stage: whether ``res2`` to ``res5`` have deformable convolutions.
            deform_modulated, deform_num_groups: their version 2; groups of channels.
            num_groups, width_per_group: of the 3x3 convolutions (ResNeXt).
            res5_dilation: 2: ``res5`` has dilated convolutions and stride 16.

        Raises:
            ConfigError: one of them is not possible.
        """
        super().__init__()
        _check(depth, deform_on_per_stage, num_groups, width_per_group, res5_dilation)
        deformable = partial(
            DeformBottleneck,
            deform_modulated=deform_modulated,
            deform_num_groups=deform_num_groups,
        )
        deformable.expansion = Bottleneck.expansion  # type: ignore[attr-defined]
        net: Any = timm.create_model(
            f"resnet{depth}d",
            num_classes=0,
            block=tuple(deformable if deform else BLOCKS[depth] for deform in deform_on_per_stage),
            cardinality=num_groups,
            base_width=width_per_group,
            output_stride=32 // res5_dilation,
            zero_init_last=False,  # with frozen statistics a zero there would never be left
        )
        for name in ("conv1", "bn1", "act1", "maxpool", *STAGES):
            self.add_module(name, getattr(net, name))
        for module in self.modules():
            if isinstance(module, OffsetConv):  # timm has initialised it as any convolution
                module.reset_parameters()
        features = {
            f"res{index}": ShapeSpec(channels=info["num_chs"], stride=info["reduction"])
            for index, info in enumerate(net.feature_info[1:], start=2)
        }
        self.set_features(features, out_features, "MODEL.RESNETS.OUT_FEATURES")
        set_norm(self, norm, "MODEL.RESNETS.NORM")
        freeze_first(self, [["conv1", "bn1"], *([stage] for stage in STAGES)], freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        node = cfg.MODEL.RESNETS
        return {
            "depth": node.DEPTH,
            "out_features": node.OUT_FEATURES,
            "norm": node.NORM,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "deform_on_per_stage": node.DEFORM_ON_PER_STAGE,
            "deform_modulated": node.DEFORM_MODULATED,
            "deform_num_groups": node.DEFORM_NUM_GROUPS,
            "num_groups": node.NUM_GROUPS,
            "width_per_group": node.WIDTH_PER_GROUP,
            "res5_dilation": node.RES5_DILATION,
        }

    def stage_outputs(self, x: Tensor) -> list[Tensor]:
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        outputs = []
        for stage in STAGES:
            x = self.get_submodule(stage)(x)
            outputs.append(x)
        return outputs


def _check(
    depth: int,
    deform_on_per_stage: Sequence[bool],
    num_groups: int,
    width_per_group: int,
    res5_dilation: int,
) -> None:
    """Raise ``ConfigError`` for what timm cannot build."""
    if depth not in BLOCKS:
        known = ", ".join(map(str, BLOCKS))
        raise ConfigError(f"MODEL.RESNETS.DEPTH is {depth}; here are {known}")
    if len(deform_on_per_stage) != len(STAGES):
        raise ConfigError("MODEL.RESNETS.DEFORM_ON_PER_STAGE needs four entries, res2 to res5")
    if BLOCKS[depth] is BasicBlock:
        for key, wanted in (
            ("DEFORM_ON_PER_STAGE", any(deform_on_per_stage)),
            ("NUM_GROUPS", num_groups != 1),
            ("WIDTH_PER_GROUP", width_per_group != 64),
        ):
            if wanted:
                raise ConfigError(
                    f"MODEL.RESNETS.{key} needs bottlenecks, which depth {depth} lacks"
                )
    if res5_dilation not in (1, 2):
        raise ConfigError(f"MODEL.RESNETS.RES5_DILATION is {res5_dilation}, not 1 or 2")


@BACKBONE_REGISTRY.register()
def build_resnet_vd_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> ResNetVD:
    """:class:`ResNetVD` by ``MODEL.RESNETS``."""
    return ResNetVD(cfg, input_shape)
