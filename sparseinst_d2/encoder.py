"""The instance context encoder (SparseInst, section 3.2).

Shape shorthand: B images, C channels of the encoder, (h, w) the size of the finest feature (stride
8). Feature lists are ordered from the finest to the coarsest level unless a name says otherwise.
"""

from collections.abc import Sequence
from typing import Any

import fvcore.nn.weight_init as weight_init
import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.utils.registry import Registry
from torch import Tensor, nn
from torch.nn import functional as F

from instseg_d2.errors import ConfigError
from instseg_d2.registry import look_up

from .split_convs import add_stretched, convolve_stretched

SPARSE_INST_ENCODER_REGISTRY: Registry = Registry("SPARSE_INST_ENCODER")
SPARSE_INST_ENCODER_REGISTRY.__doc__ = """
Encoders, named by ``MODEL.SPARSE_INST.ENCODER.NAME``.

Called as ``encoder(cfg, input_shape)``; the module maps the backbone's feature dict to one tensor
(B, C, h, w) and has the attribute ``out_channels``.
"""

#: The sides of the pooled maps of the pyramid pooling module.
PYRAMID_POOL_SIZES = (1, 2, 3, 6)


def build_encoder(cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> nn.Module:
    """The encoder that ``MODEL.SPARSE_INST.ENCODER.NAME`` names."""
    name = cfg.MODEL.SPARSE_INST.ENCODER.NAME
    key = "MODEL.SPARSE_INST.ENCODER.NAME"
    return look_up(SPARSE_INST_ENCODER_REGISTRY, name, key)(cfg, input_shape)


class PyramidPoolingModule(nn.Module):
    """Adds context from the whole image to the coarsest feature (PSPNet's module).

    The map is averaged to grids of 1, 2, 3 and 6 cells a side; each grid is reduced by a 1x1
    convolution and stretched back. The four precede the input in the concatenation that the
    bottleneck reads.
    """

    def __init__(self, in_channels: int, pooled_channels: int, norm: str = "") -> None:
        super().__init__()
        # No norm on the grids: the coarsest has one cell, too few for batch statistics.
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(size),
                _conv(in_channels, pooled_channels, kernel_size=1, norm=""),
            )
            for size in PYRAMID_POOL_SIZES
        )
        concatenated = in_channels + pooled_channels * len(PYRAMID_POOL_SIZES)
        self.bottleneck = _conv(concatenated, in_channels, kernel_size=1, norm=norm)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                weight_init.c2_xavier_fill(module)

    def forward(self, feature: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        pooled = [F.relu(stage(feature)) for stage in self.stages]
        maps = [*pooled, feature]
        return F.relu(convolve_stretched(self.bottleneck, maps, feature.shape[-2:]))


@SPARSE_INST_ENCODER_REGISTRY.register()
class InstanceContextEncoder(nn.Module):
    """Fuses three backbone levels into one stride-8 feature with context.

    Laterals -> pyramid pooling on the coarsest -> top-down additions -> 3x3 outputs -> all levels
    resized to the finest, concatenated finest first, fused by a 1x1 convolution. (The concatenation
    is not made: see :mod:`.split_convs`.)
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: Sequence[int],
        in_features: Sequence[str],
        channels: int,
        norm: str = "",
    ) -> None:
        """
        Args:
            in_channels: channels of the backbone features, finest level first.
            in_features: their names in the backbone's output.
            channels: C, of every level here and of the output; a multiple of 4.
            norm: Detectron2 name of the norm after each convolution but those of the pooled grids,
                "" for none.
        """
        super().__init__()
        if len(in_channels) != len(in_features):
            raise ConfigError(f"{len(in_channels)} channel counts for {len(in_features)} features")
        if channels % len(PYRAMID_POOL_SIZES):
            raise ConfigError(
                f"the encoder's channels (MODEL.SPARSE_INST.ENCODER.NUM_CHANNELS) must be a "
                f"multiple of {len(PYRAMID_POOL_SIZES)}, got {channels}"
            )
        self.in_features = tuple(in_features)
        self.out_channels = channels
        # Checkpoints list the levels from the coarsest, because the top-down path starts there.
        coarsest_first = list(in_channels)[::-1]
        self.fpn_laterals = nn.ModuleList(
            _conv(c, channels, kernel_size=1, norm=norm) for c in coarsest_first
        )
        self.fpn_outputs = nn.ModuleList(
            _conv(channels, channels, kernel_size=3, norm=norm) for _ in coarsest_first
        )
        self.ppm = PyramidPoolingModule(channels, channels // len(PYRAMID_POOL_SIZES), norm)
        self.fusion = _conv(channels * len(coarsest_first), channels, kernel_size=1, norm=norm)
        for conv in (*self.fpn_laterals, *self.fpn_outputs):
            weight_init.c2_xavier_fill(conv)
        weight_init.c2_msra_fill(self.fusion)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: dict[str, ShapeSpec]) -> dict[str, Any]:
        node = cfg.MODEL.SPARSE_INST.ENCODER
        absent = [name for name in node.IN_FEATURES if name not in input_shape]
        if absent:
            raise ConfigError(
                f"MODEL.SPARSE_INST.ENCODER.IN_FEATURES names {', '.join(absent)}, but the "
                f"backbone gives {', '.join(input_shape)} (MODEL.RESNETS.OUT_FEATURES for a ResNet)"
            )
        return {
            "in_channels": [input_shape[name].channels for name in node.IN_FEATURES],
            "in_features": node.IN_FEATURES,
            "channels": node.NUM_CHANNELS,
            "norm": node.NORM,
        }

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Backbone features by name, (B, ?, H_l, W_l) each -> (B, C, h, w) at the finest's size."""
        coarsest_first = [features[name] for name in self.in_features[::-1]]
        top = self.ppm(self.fpn_laterals[0](coarsest_first[0]))
        outputs = [self.fpn_outputs[0](top)]
        for feature, lateral, output in zip(
            coarsest_first[1:], self.fpn_laterals[1:], self.fpn_outputs[1:], strict=True
        ):
            lateral_feature = lateral(feature)
            top = lateral_feature + F.interpolate(
                top, size=lateral_feature.shape[-2:], mode="nearest"
            )
            outputs.append(output(top))
        size = outputs[-1].shape[-2:]
        if self.fusion is None:
            return add_stretched(outputs[::-1], size)
        return convolve_stretched(self.fusion, outputs[::-1], size)

    @torch.no_grad()
    def for_inference(self) -> nn.Module:
        """The same function for weights that no longer change, in place.

        Without a norm between them, each 3x3 output convolution and its part of the 1x1 ``fusion``
        are one 3x3 convolution.
        """
        fusion: Any = self.fusion
        outputs: list[Any] = list(self.fpn_outputs)[::-1]
        if fusion is None or any(conv.norm is not None for conv in (fusion, *outputs)):
            return self
        mixes = fusion.weight.double()[:, :, 0, 0].split(self.out_channels, dim=1)
        for output, mix in zip(outputs, mixes, strict=True):
            output.weight.copy_(torch.einsum("of,fikl->oikl", mix, output.weight.double()))
            output.bias.copy_(mix @ output.bias.double())
        outputs[0].bias += fusion.bias
        self.fusion = None
        return self


def _conv(in_channels: int, out_channels: int, *, kernel_size: int, norm: str) -> Conv2d:
    """A "same" convolution, with a bias unless a norm follows."""
    return Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        bias=not norm,
        norm=get_norm(norm, out_channels),
    )
