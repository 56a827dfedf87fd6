"""Pyramid Vision Transformer v2 (arXiv 2106.13797)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import timm
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY
from timm.models.pvt_v2 import MlpWithDepthwiseConv
from torch import Tensor, nn

from instseg_d2.errors import ConfigError

from .stages import StagedBackbone, freeze_first

SIZES = ("b0", "b1", "b2", "b3", "b4", "b5")
LINEAR_SIZES = ("b2",)
"""Sizes of which timm has the variant with linear attention."""

#: Of a stage; their names in a checkpoint have the stage's number behind them.
PARTS = ("patch_embed", "block", "norm")


class PyramidVisionTransformer(StagedBackbone):
    """timm's ``pvt_v2_*``; features ``p1`` to ``p4`` at strides 4 to 32.

    Parameters have the names of the PVT authors' own files, which differ from timm's.
    """

    @configurable
    def __init__(
        self,
        *,
        name: str = "b1",
        linear: bool = False,
        out_features: Sequence[str] = ("p2", "p3", "p4"),
        freeze_at: int = 0,
        drop_path_rate: float = 0.1,
    ) -> None:
        """
        Args:
            name: one of :data:`SIZES`.
            linear: attention to a 7x7 pooled map instead of a strided convolution's result.
            out_features: of ``p1`` to ``p4``.
            freeze_at: 0: nothing is frozen, 1: the first patch embedding, 2: up to ``p1``, and so
                on.
            drop_path_rate: of the last block; grows linearly with the depth.

        Raises:
            ConfigError: one of them is not possible.
        """
        super().__init__()
        known = LINEAR_SIZES if linear else SIZES
        if name not in known:
            raise ConfigError(
                f"MODEL.PVT.NAME is {name!r} with MODEL.PVT.LINEAR {linear}; here are "
                + ", ".join(known)
            )
        net: Any = timm.create_model(
            f"pvt_v2_{name}{'_li' if linear else ''}", num_classes=0, drop_path_rate=drop_path_rate
        )
        features = {}
        self.patch_embed1 = net.patch_embed
        for index, (stage, info) in enumerate(zip(net.stages, net.feature_info, strict=True), 1):
            if stage.downsample is not None:
                self.add_module(f"patch_embed{index}", stage.downsample)
            self.add_module(f"block{index}", stage.blocks)
            self.add_module(f"norm{index}", stage.norm)
            features[f"p{index}"] = ShapeSpec(channels=info["num_chs"], stride=info["reduction"])
        for module in self.modules():
            if isinstance(module, MlpWithDepthwiseConv):  # "dwconv.dwconv" in the authors' files
                wrapped = nn.Sequential(OrderedDict(dwconv=module.dwconv))
                module.add_module("dwconv", wrapped)
        self.set_features(features, out_features, "MODEL.PVT.OUT_FEATURES")
        stages = [[f"{part}{index}" for part in PARTS] for index in range(1, len(features) + 1)]
        freeze_first(self, [["patch_embed1"], *stages], freeze_at)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        node = cfg.MODEL.PVT
        name = node.NAME.removeprefix("pvt_v2_")
        return {
            "name": name.removesuffix("_li"),
            "linear": node.LINEAR or name.endswith("_li"),
            "out_features": node.OUT_FEATURES,
            "freeze_at": cfg.MODEL.BACKBONE.FREEZE_AT,
            "drop_path_rate": node.DROP_PATH_RATE,
        }

    def stage_outputs(self, x: Tensor) -> list[Tensor]:
        outputs = []
        for patch_embed, blocks, norm in self._stages():
            tokens = patch_embed(x)  # (B, h, w, C)
            height, width = tokens.shape[1:3]
            tokens = tokens.flatten(1, 2)
            for block in blocks:  # type: ignore[attr-defined]
                tokens = block(tokens, (height, width))
            x = norm(tokens).unflatten(1, (height, width)).permute(0, 3, 1, 2).contiguous()
            outputs.append(x)
        return outputs

    def _stages(self) -> list[tuple[nn.Module, nn.Module, nn.Module]]:
        """(patch embedding, blocks, norm) of each stage."""
        return [
            tuple(getattr(self, f"{part}{index}") for part in PARTS)
            for index in range(1, len(self._feature_names) + 1)
        ]


@BACKBONE_REGISTRY.register()
def build_pyramid_vision_transformer(
    cfg: CfgNode, input_shape: ShapeSpec
) -> PyramidVisionTransformer:
    """:class:`PyramidVisionTransformer` by ``MODEL.PVT``."""
    return PyramidVisionTransformer(cfg, input_shape)
