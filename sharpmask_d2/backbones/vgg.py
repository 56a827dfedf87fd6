"""The convolutions of VGG (arXiv 1409.1556, table 1: A is depth 11, D depth 16) as a trunk.

DeepMask leaves the fifth pooling and the fully connected layers out. (The first DeepMask had VGG-A,
arXiv 1506.06204, section 3.1.) So does Fast R-CNN, which pools regions of the last feature instead
and applies the fully connected layers to these: :mod:`sharpmask_d2.fast_rcnn`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn
from torch.nn import functional as F

from instseg_d2.errors import ConfigError

from ..padding import set_padding_mode

#: Convolutions per block.
DEPTHS = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}
FEATURES = ("block1", "block2", "block3", "block4", "block5")


class VGG(Backbone):
    """Features ``block1`` to ``block5``, at strides 1, 2, 4, 8, 16: before the pooling after each.

    Blocks after the deepest one wanted are not part of the module.
    """

    @configurable
    def __init__(
        self,
        *,
        depth: int = 11,
        channels: Sequence[int] = (64, 128, 256, 512, 512),
        in_channels: int = 3,
        out_features: Sequence[str] = ("block5",),
        padding: str = "symmetric",
        freeze_at: int = 0,
    ) -> None:
        """
        Args:
            depth: a key of :data:`DEPTHS`.
            channels: of each block.
            in_channels: of the image.
            out_features: of :data:`FEATURES`.
            padding: see :mod:`sharpmask_d2.padding`.
            freeze_at: 0: nothing is frozen, 1: ``block1``, 2: ``block1`` and ``block2``, and so on
                to 5.

        Raises:
            ConfigError: one of them is not possible.
        """
        super().__init__()
        if depth not in DEPTHS:
            raise ConfigError(f"MODEL.VGG.DEPTH is {depth}; here are {', '.join(map(str, DEPTHS))}")
        if len(channels) != len(FEATURES):
            raise ConfigError(f"MODEL.VGG.CHANNELS must have {len(FEATURES)} entries, one a block")
        if not out_features or any(name not in FEATURES for name in out_features):
            raise ConfigError(
                f"MODEL.VGG.OUT_FEATURES is {list(out_features)}; "
                f"the features here are {', '.join(FEATURES)}"
            )
        if not 0 <= freeze_at <= len(FEATURES):
            raise ConfigError(
                f"MODEL.BACKBONE.FREEZE_AT is {freeze_at}, but must be from 0 to {len(FEATURES)}"
            )
        num_blocks = 1 + max(FEATURES.index(name) for name in out_features)
        for index, name in enumerate(FEATURES[:num_blocks]):
            self.add_module(name, _block(in_channels, channels[index], DEPTHS[depth][index]))
            in_channels = channels[index]
            if index < freeze_at:
                self.get_submodule(name).requires_grad_(False)
        set_padding_mode(self, padding)
        self._names = FEATURES[:num_blocks]
        self._out_features = list(out_features)
        self._out_feature_channels = dict(zip(FEATURES, channels, strict=True))
        self._out_feature_strides = {name: 2**index for index, name in enumerate(FEATURES)}

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        node = cfg.MODEL.VGG
        return {
            "depth": node.DEPTH,
            "channels": node.CHANNELS,
            "in_channels": input_shape.channels,
            "out_features": node.OUT_FEATURES,
            "padding": cfg.MODEL.SHARP_MASK.PADDING,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
        }

    @property
    def size_divisibility(self) -> int:
        """Images whose sides are multiples of this have features that fit onto each other."""
        return max(self._out_feature_strides[name] for name in self._out_features)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(B, 3, H, W) -> {feature name: (B, channels, H / stride, W / stride)}, rounded down."""
        outputs: dict[str, Tensor] = {}
        for name in self._names:
            if outputs:
                x = F.max_pool2d(x, kernel_size=2)
            x = self.get_submodule(name)(x)
            outputs[name] = x
        return {name: outputs[name] for name in self._out_features}


@BACKBONE_REGISTRY.register()
def build_vgg_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> VGG:
    """:class:`VGG` by ``MODEL.VGG``, padded by ``MODEL.SHARP_MASK.PADDING``."""
    return VGG(cfg, input_shape)


def _block(in_channels: int, channels: int, num_convs: int) -> nn.Sequential:
    """``conv1``, ``conv2`` ...: 3x3 convolutions, each with a ReLU."""
    convs = OrderedDict()
    for index in range(num_convs):
        conv = Conv2d(
            channels if index else in_channels,
            channels,
            kernel_size=3,
            padding=1,
            activation=F.relu,
        )
        weight_init.c2_msra_fill(conv)
        convs[f"conv{index + 1}"] = conv
    return nn.Sequential(convs)
